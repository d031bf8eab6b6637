//! What the figures are held against, and how each is taken from what was measured.
//!
//! A row that was not measured is a row that says so; it is never met.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sg_tests::figures::{Figure, Spread};

/// All figures of a run.
pub struct Run(pub Vec<Figure>);

/// How a row is compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// One line of the table.
#[derive(Debug)]
pub struct Row {
    pub figure: String,
    pub unit: &'static str,
    pub ours: Option<f64>,
    /// The least of all rounds, of a time in a test run, where neighbours disturb least.
    pub least: Option<f64>,
    /// The best of the others, with its name.
    pub peer: Option<(String, f64)>,
    pub must: Bar,
    pub goal: Bar,
}

/// Of several figures, the highest of each kind: not of one figure.
#[derive(Debug, Clone, Copy)]
struct Worst {
    median: f64,
    least: f64,
}

impl Bar {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    pub fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("≤ {}", number(most)),
            Self::AtLeast(least) => format!("≥ {}", number(least)),
        }
    }
}

impl Row {
    /// "goal", "yes", "no", or "not measured"; and whether the least does where the median does not.
    pub fn met(&self) -> &'static str {
        match self.ours {
            None => "not measured",
            Some(ours) if self.goal.holds(ours) => "goal",
            Some(ours) if self.must.holds(ours) => "yes",
            Some(_) if self.least.is_some_and(|least| self.must.holds(least)) => "no; the least: yes",
            Some(_) => "no",
        }
    }

    /// Ours as a part of the best other's.
    pub fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        self.ours.map(|ours| ours / peer).filter(|ratio| ratio.is_finite())
    }
}

/// As few digits as tell it.
pub fn number(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

impl Run {
    /// The figure with these labels.
    pub fn one(&self, figure: &str, labels: &Value) -> Option<f64> {
        self.spread(figure, labels).map(|spread| spread.median)
    }

    pub fn spread(&self, figure: &str, labels: &Value) -> Option<Spread> {
        self.0.iter().find(|found| found.is(figure, labels)).map(Figure::spread)
    }

    /// The highest median of those with these labels, and the highest of what each took at least.
    fn worst(&self, figure: &str, labels: &Value) -> Option<Worst> {
        let found = self.0.iter().filter(|found| found.is(figure, labels)).map(Figure::spread);
        let found = found.map(|spread| Worst { median: spread.median, least: spread.least });
        found.reduce(|one, other| Worst {
            median: one.median.max(other.median),
            least: one.least.max(other.least),
        })
    }

    /// The figures with the labels of `over`, each as a ratio, round by round, to the one that has the labels of `under` and else the same:
    /// the highest median. Those that differ in the labels `pooled` only are of the same work, and their rounds are one figure's.
    fn worst_ratio(&self, figure: &str, over: &Value, under: &Value, pooled: &[&str]) -> Option<f64> {
        let mut ratios: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for of in self.0.iter().filter(|found| found.is(figure, over)) {
            let mut labels = of.labels.clone();
            labels.as_object_mut()?.extend(under.as_object()?.clone());
            let Some(below) = self.0.iter().find(|found| found.is(figure, &labels)) else { continue };
            labels.as_object_mut()?.retain(|label, _| !pooled.contains(&label.as_str()));
            ratios
                .entry(labels.to_string())
                .or_default()
                .extend(by_round(of, below, |over, under| over / under));
        }
        ratios.values().map(|rounds| Spread::of(rounds).median).reduce(f64::max)
    }

    /// What is more than without a filter in the same round, in the median of rounds.
    pub fn added(&self, figure: &str, filter: &str, labels: &Value) -> Option<f64> {
        let with = self.labelled(figure, filter, labels)?;
        let without = self.labelled(figure, without(filter), labels).or_else(|| {
            // Without a filter there are no rules: it is measured once.
            let mut labels = labels.clone();
            labels.as_object_mut()?.remove("rules");
            self.labelled(figure, without(filter), &labels)
        })?;
        Some(Spread::of(&by_round(with, without, |with, without| with - without)).median)
    }

    /// The same as a ratio.
    pub fn relative(&self, figure: &str, filter: &str, labels: &Value) -> Option<f64> {
        let with = self.labelled(figure, filter, labels)?;
        let mut bare = labels.clone();
        bare.as_object_mut()?.remove("rules");
        let without = self.labelled(figure, without(filter), &bare)?;
        Some(Spread::of(&by_round(with, without, |with, without| with / without)).median)
    }

    fn labelled(&self, figure: &str, filter: &str, labels: &Value) -> Option<&Figure> {
        let mut labels = labels.clone();
        labels.as_object_mut()?.insert("filter".to_owned(), json!(filter));
        self.0.iter().find(|found| found.is(figure, &labels))
    }

    /// The best of the other filters by a function of their names.
    fn best(&self, of: impl Fn(&str) -> Option<f64>, least: bool) -> Option<(String, f64)> {
        let all = OTHERS.iter().filter_map(|name| of(name).map(|value| ((*name).to_owned(), value)));
        if least { all.min_by(|a, b| a.1.total_cmp(&b.1)) } else { all.max_by(|a, b| a.1.total_cmp(&b.1)) }
    }
}

/// Of what both have in each round.
fn by_round(one: &Figure, other: &Figure, of: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    one.values.iter().zip(&other.values).map(|(one, other)| of(*one, *other)).collect()
}

/// Names of filters, in figures of what is measured side by side.
pub const OURS: &str = "sgd";
pub const OURS_BRIDGED: &str = "sgd, bridged";
/// As kernels before 6.6 have it.
pub const OURS_CLSACT: &str = "sgd, clsact";
/// On the guest's port and on the one that packets come from.
pub const OURS_BOTH: &str = "sgd on both ports, bridged";
pub const OURS_FAST: &str = "sgd on both ports, fast path";
pub const NONE: &str = "none";
pub const NONE_BRIDGED: &str = "none, bridged";
/// Programs that pass everything, where sgd's are: what the hooks themselves cost.
pub const EMPTY: &str = "empty program, TCX";
pub const EMPTY_BRIDGED: &str = "empty program, TCX, bridged";
pub const NFT: &str = "nftables, sets";
pub const NFT_LINES: &str = "nftables, one rule a line";
pub const IPSET: &str = "iptables + ipset";
pub const NEUTRON: &str = "iptables, chains on a bridge";
const OTHERS: [&str; 4] = [NFT, NFT_LINES, IPSET, NEUTRON];

/// What a filter is compared with.
pub fn without(filter: &str) -> &'static str {
    const BRIDGED: [&str; 5] = [NEUTRON, EMPTY_BRIDGED, OURS_BRIDGED, OURS_BOTH, OURS_FAST];
    if BRIDGED.contains(&filter) { NONE_BRIDGED } else { NONE }
}

/// What others take in a test run on a machine of the kind that the bars were set on. They are not measured here.
fn elsewhere(name: &str, value: f64) -> Option<(String, f64)> {
    Some((format!("{name} (not of this run)"), value))
}

/// The whole table.
pub fn rows(run: &Run) -> Vec<Row> {
    let mut rows = packets(run);
    rows.extend(in_path(run));
    rows.extend(control(run));
    rows
}

fn at_most(figure: &str, unit: &'static str, ours: Option<f64>, must: f64, goal: f64) -> Row {
    Row {
        figure: figure.to_owned(),
        unit,
        ours,
        least: None,
        peer: None,
        must: Bar::AtMost(must),
        goal: Bar::AtMost(goal),
    }
}

/// A time in a test run.
fn in_test_run(figure: &str, ours: Option<Worst>, must: f64, goal: f64) -> Row {
    let row = at_most(figure, "ns", ours.map(|worst| worst.median), must, goal);
    Row { least: ours.map(|worst| worst.least), ..row }
}

fn packets(run: &Run) -> Vec<Row> {
    let labels = |what: &str, rules: u32, members: u32, flows: &str| json!({ "family": "IPv4", "packet": what, "rules": rules, "members": members, "flows": flows });
    // Packets of many flows are replies on egress.
    let flows = |flows: u32| json!({ "family": "IPv4", "flows": flows.to_string() });
    let worst = |labels: Value| run.worst("packet", &labels);
    let ratio = |over: Value, under: Value| run.worst_ratio("packet", &over, &under, &[]);
    let new = |rules, members| labels("new", rules, members, "each");
    // No policy is asked about a packet of a known flow, so all rounds are of the same work, whatever the policy: some dozens of a few
    // nanoseconds each tell a neighbour from the family, and nine do not.
    let v6 = json!({ "family": "IPv6", "packet": "established", "flows": "same" });
    let v6 = run.worst_ratio("packet", &v6, &json!({ "family": "IPv4" }), &["rules", "members"]);
    let mut rows = vec![
        in_test_run(
            "established, test run, the slowest hook, IPv4",
            worst(labels("established", 10, 0, "same")),
            100.0,
            70.0,
        ),
        at_most("the same, with every policy, IPv6 over IPv4", "×", v6, 1.3, 1.0),
        in_test_run("65,536 flows in random order, test run", worst(flows(1 << 16)), 300.0, 150.0),
        at_most("1,048,576 flows over 65,536", "×", ratio(flows(1 << 20), flows(1 << 16)), 1.3, 1.0),
        in_test_run("new flow, test run, 10,000 rules", worst(new(10_000, 0)), 500.0, 350.0),
        at_most("new flow, 10,000 rules over 10", "×", ratio(new(10_000, 0), new(10, 0)), 1.15, 1.0),
        in_test_run("new flow, test run, 100,000 members", worst(new(10, 100_000)), 500.0, 350.0),
        at_most("new flow, 100,000 members over none", "×", ratio(new(10, 100_000), new(10, 0)), 1.15, 1.0),
        in_test_run(
            "denied, test run, 10,000 rules",
            worst(labels("denied", 10_000, 0, "same")),
            110.0,
            80.0,
        ),
    ];
    for (row, peer) in [
        (0, elsewhere("Calico eBPF", 246.0)),
        (4, elsewhere("Calico eBPF", 711.0)),
        (8, elsewhere("Cilium", 302.0)),
    ] {
        if let Some(row) = rows.get_mut(row) {
            row.peer = peer;
        }
    }
    rows
}

fn in_path(run: &Run) -> Vec<Row> {
    let path = |what: &str, flows: u32, rules: u32| json!({ "packet": what, "flows": flows, "rules": rules });
    let mut rows = Vec::new();
    for (figure, labels, must, goal) in [
        ("established, in path, 10 rules: CPU added", path("established", 1, 10), 90.0, 45.0),
        ("65,536 flows in random order, in path: CPU added", path("established", 1 << 16, 10), 250.0, 130.0),
    ] {
        let added = |filter: &str| run.added("in path", filter, &labels);
        rows.push(Row { peer: run.best(added, true), ..at_most(figure, "ns", added(OURS), must, goal) });
    }
    let fast = run.added("in path", OURS_FAST, &path("established", 1, 10));
    let figure = "established, two guests' ports, on the fast path, 10 rules: CPU added";
    rows.insert(1, at_most(figure, "ns", fast, 90.0, 0.0));
    let labels = json!({ "rules": 10_000 });
    let rate = |filter: &str| run.relative("connections", filter, &labels);
    rows.push(Row {
        figure: "TCP connections a second, 10,000 rules, over no filter".to_owned(),
        unit: "×",
        ours: rate(OURS),
        least: None,
        peer: run.best(rate, false),
        must: Bar::AtLeast(0.97),
        goal: Bar::AtLeast(1.0),
    });
    let cpu = |filter: &str| run.relative("CPU per connection", filter, &labels);
    rows.push(Row {
        peer: run.best(cpu, true),
        ..at_most("CPU per TCP connection, 10,000 rules, over no filter", "×", cpu(OURS), 1.03, 1.0)
    });
    rows
}

fn control(run: &Run) -> Vec<Row> {
    let of = |figure: &str, labels: Value| run.one(figure, &labels);
    let theirs = |figure: &'static str, labels: Value| {
        run.best(
            move |filter| {
                let mut labels = labels.clone();
                labels.as_object_mut()?.insert("filter".to_owned(), json!(filter));
                run.one(figure, &labels)
            },
            true,
        )
    };
    let swap = json!({ "filter": OURS, "rules": 10_000 });
    // The quick form has a smaller group.
    let sizes = run.0.iter().filter(|figure| figure.figure == "one member");
    let members = sizes.filter_map(|figure| figure.labels.get("members")?.as_u64()).max().unwrap_or(100_000);
    vec![
        Row {
            peer: theirs("full swap", json!({ "rules": 10_000 })),
            ..at_most("full swap of 10,000 rules", "ms", of("full swap", swap), 100.0, 20.0)
        },
        at_most(
            "packets lost or misjudged while swapping",
            "",
            of("lost while swapping", json!({})),
            0.0,
            0.0,
        ),
        Row {
            peer: theirs("one rule", json!({})),
            ..at_most("one rule more, of 10,000", "ms", of("one rule", json!({ "filter": OURS })), 2.0, 1.0)
        },
        Row {
            peer: theirs("one member", json!({})),
            ..at_most(
                &format!("one member more, of {members}"),
                "ms",
                of("one member", json!({ "filter": OURS })),
                1.0,
                0.1,
            )
        },
        at_most(
            "map writes for one rule more, of 10,000",
            "",
            of("map writes for one rule", json!({ "filter": OURS })),
            4.0,
            2.0,
        ),
        at_most(
            &format!("map writes for one member more, of {members}"),
            "",
            of("map writes for one member", json!({ "filter": OURS })),
            4.0,
            3.0,
        ),
        Row {
            peer: of("memory of a flow", json!({ "filter": "nf_conntrack" }))
                .map(|bytes| ("nf_conntrack".to_owned(), bytes)),
            ..at_most(
                "memory of a flow of IPv4",
                "bytes",
                of("memory of a flow", json!({ "filter": OURS })),
                128.0,
                64.0,
            )
        },
        at_most(
            "collecting 1,000,000 flows that are over: CPU",
            "ms",
            of("collecting", json!({ "over": "all of them are over" })),
            200.0,
            50.0,
        ),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sg_tests::figures::Figure;

    use super::{Bar, NFT, NONE, OURS, Row, Run, number, rows};

    fn figure(figure: &str, labels: serde_json::Value, values: &[f64]) -> Figure {
        Figure { figure: figure.to_owned(), unit: "ns".to_owned(), labels, values: values.to_vec() }
    }

    #[test]
    fn a_row_without_a_figure_is_not_met() {
        let rows = rows(&Run(Vec::new()));
        assert!(rows.len() > 15);
        assert!(rows.iter().all(|row| row.met() == "not measured"));
    }

    #[test]
    fn what_is_added_is_compared_round_by_round() {
        let labels =
            |filter: &str| json!({ "filter": filter, "packet": "established", "flows": 1, "rules": 10 });
        let bare = json!({ "filter": NONE, "packet": "established", "flows": 1 });
        let run = Run(vec![
            figure("in path", bare, &[700.0, 900.0, 700.0]),
            figure("in path", labels(OURS), &[740.0, 945.0, 750.0]),
            figure("in path", labels(NFT), &[1000.0, 1200.0, 1000.0]),
        ]);
        let row = rows(&run).into_iter().find(|row| row.figure.starts_with("established, in path")).unwrap();
        assert_eq!((row.ours, row.met()), (Some(45.0), "goal"));
        assert_eq!(row.peer, Some((NFT.to_owned(), 300.0)));
        assert_eq!(row.ratio(), Some(0.15));
    }

    #[test]
    fn what_is_a_ratio_is_one_of_the_same_hook_and_round() {
        let labels = |hook: &str, family: &str| json!({ "hook": hook, "family": family, "packet": "established", "rules": 10, "members": 0, "flows": "same" });
        // The neighbour has come and gone.
        let run = Run(vec![
            figure("packet", labels("XDP", "IPv4"), &[50.0, 100.0, 55.0]),
            figure("packet", labels("XDP", "IPv6"), &[60.0, 120.0, 121.0]),
            figure("packet", labels("TC ingress", "IPv4"), &[100.0, 100.0, 40.0]),
            figure("packet", labels("TC ingress", "IPv6"), &[110.0, 110.0, 44.0]),
        ]);
        let row = rows(&run).into_iter().find(|row| row.figure.contains("IPv6 over IPv4")).unwrap();
        assert_eq!(row.ours, Some(1.2));
        let row = rows(&run).into_iter().find(|row| row.figure.starts_with("established, test run")).unwrap();
        // Of the hook that is the slower one then.
        assert_eq!((row.ours, row.least), (Some(100.0), Some(50.0)));
    }

    #[test]
    fn rounds_with_every_policy_count_where_none_is_asked() {
        let labels = |family: &str, rules: u32| json!({ "hook": "XDP", "family": family, "packet": "established", "rules": rules, "members": 0, "flows": "same" });
        // A neighbour came in the middle of each round of the first.
        let run = Run(vec![
            figure("packet", labels("IPv4", 10), &[50.0, 50.0, 50.0]),
            figure("packet", labels("IPv6", 10), &[100.0, 90.0, 55.0]),
            figure("packet", labels("IPv4", 100), &[50.0, 50.0, 50.0]),
            figure("packet", labels("IPv6", 100), &[55.0, 60.0, 60.0]),
            figure("packet", labels("IPv4", 1000), &[50.0]),
            figure("packet", labels("IPv6", 1000), &[55.0]),
        ]);
        let row = rows(&run).into_iter().find(|row| row.figure.contains("IPv6 over IPv4")).unwrap();
        assert_eq!((row.ours, row.met()), (Some(1.2), "yes"));
    }

    #[test]
    fn a_row_is_met_by_its_bar_or_by_its_goal() {
        let row = |ours| Row {
            figure: String::new(),
            unit: "×",
            ours: Some(ours),
            least: None,
            peer: None,
            must: Bar::AtLeast(0.97),
            goal: Bar::AtLeast(1.0),
        };
        assert_eq!([0.9, 0.98, 1.0].map(|ours| row(ours).met()), ["no", "yes", "goal"]);
        let loud = Row { must: Bar::AtMost(100.0), goal: Bar::AtMost(70.0), least: Some(90.0), ..row(120.0) };
        assert_eq!(loud.met(), "no; the least: yes");
        assert_eq!(Row { least: Some(101.0), ..loud }.met(), "no");
        assert_eq!([1234.0, 12.34, 0.5, 2.0].map(number), ["1234", "12.3", "0.5", "2"]);
    }
}
