//! Plots of the figures, as SVG.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::prelude::*;
use serde_json::{Value, json};
use sg_tests::figures::Spread;

use super::bars::{IPSET, NEUTRON, NFT, NFT_LINES, NONE, OURS, OURS_BRIDGED, Run};

const SIZE: (u32, u32) = (900, 480);
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(120, 120, 120),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// A file, what it shows, and its lines.
struct Plot {
    file: &'static str,
    title: &'static str,
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
}

struct Line {
    name: String,
    points: Vec<(f64, Spread)>,
}

/// Writes those of which something was measured; tells their files and titles.
pub fn write(run: &Run, directory: &Path) -> Result<Vec<(&'static str, &'static str)>> {
    let mut written = Vec::new();
    for mut plot in plots(run) {
        plot.lines.retain(|line| line.points.len() > 1);
        if !plot.lines.is_empty() {
            draw(&plot, &directory.join(plot.file))
                .map_err(|error| anyhow!("{error}"))
                .with_context(|| format!("cannot draw {}", plot.file))?;
            written.push((plot.file, plot.title));
        }
    }
    Ok(written)
}

fn plots(run: &Run) -> Vec<Plot> {
    let packet = |name: &str, along: &str, labels: Value| Line {
        name: name.to_owned(),
        points: points(run, "packet", along, &labels),
    };
    let of = |hook: &str, what: &str, flows: &str| {
        packet(
            &format!("{hook}, {what}"),
            "rules",
            json!({ "hook": hook, "family": "IPv4", "packet": what, "flows": flows, "members": 0 }),
        )
    };
    let filters = |figure: &'static str, along: &'static str, labels: Value, names: &[&str]| -> Vec<Line> {
        let line = |name: &&str| {
            let mut labels = labels.clone();
            if let Some(labels) = labels.as_object_mut() {
                labels.insert("filter".to_owned(), json!(name));
            }
            Line { name: (*name).to_owned(), points: points(run, figure, along, &labels) }
        };
        names.iter().map(line).collect()
    };
    let all = [OURS, NFT, NFT_LINES, IPSET, OURS_BRIDGED, NEUTRON];
    let ns = "ns a packet";
    vec![
        Plot {
            file: "rules.svg",
            title: "What a packet costs in the programs, by the number of rules (test runs)",
            x: "rules",
            y: ns,
            lines: ["established", "new", "denied"]
                .into_iter()
                .flat_map(|what| {
                    let flows = if what == "new" { "each" } else { "same" };
                    ["XDP", "TC egress"].map(|hook| of(hook, what, flows))
                })
                .collect(),
        },
        Plot {
            file: "flows.svg",
            title: "What a packet of one of many connections costs, in random order (test runs)",
            x: "connections",
            y: ns,
            lines: [
                ("TC ingress", "IPv4", "established"),
                ("TC egress", "IPv4", "reply"),
                ("XDP", "IPv4", "established"),
                ("XDP", "IPv6", "established"),
            ]
            .map(|(hook, family, what)| {
                let labels = json!({ "hook": hook, "family": family, "rules": 10, "packet": what });
                packet(&format!("{hook}, {family}"), "flows", labels)
            })
            .into(),
        },
        Plot {
            file: "members.svg",
            title: "What a new flow costs, by the number of members of the group that lets it in (test runs)",
            x: "members (the least: none, and a rule for a prefix)",
            y: ns,
            lines: ["XDP", "TC ingress", "TC egress"]
                .map(|hook| {
                    packet(
                        hook,
                        "members",
                        json!({ "hook": hook, "family": "IPv4", "rules": 10, "packet": "new" }),
                    )
                })
                .into(),
        },
        Plot {
            file: "path-new.svg",
            title: "CPU of a forwarded packet that begins a connection, by the number of rules",
            x: "rules",
            y: ns,
            lines: filters("in path", "rules", json!({ "packet": "new" }), &all),
        },
        Plot {
            file: "path-flows.svg",
            title: "CPU of a forwarded packet of one of many connections",
            x: "connections",
            y: ns,
            lines: filters("in path", "flows", json!({ "packet": "established", "rules": 10 }), &all)
                .into_iter()
                .chain(filters("in path", "flows", json!({ "packet": "established" }), &[NONE]))
                .collect(),
        },
        Plot {
            file: "connections.svg",
            title: "TCP connections a second, by the number of rules",
            x: "rules",
            y: "connections a second",
            lines: filters("connections", "rules", json!({}), &all),
        },
        Plot {
            file: "swap.svg",
            title: "A full swap, by the number of rules",
            x: "rules",
            y: "ms",
            lines: filters("full swap", "rules", json!({}), &all),
        },
    ]
}

/// Figures along one of their labels, from the least of it on.
fn points(run: &Run, figure: &str, along: &str, labels: &Value) -> Vec<(f64, Spread)> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let mut points: Vec<(f64, Spread)> = run
        .0
        .iter()
        .filter(|found| found.is(figure, labels))
        .filter_map(|found| Some((number(found.labels.get(along)?)?.max(1.0), found.spread())))
        .collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points
}

/// Both axes are logarithmic.
fn draw(plot: &Plot, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let all = || plot.lines.iter().flat_map(|line| &line.points);
    let ends = |values: &mut dyn Iterator<Item = f64>| {
        values
            .filter(|value| *value > 0.0)
            .fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
    };
    let (left, right) = ends(&mut all().map(|(x, _)| *x));
    let (low, high) = ends(&mut all().flat_map(|(_, spread)| [spread.least, spread.most]));
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(plot.title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d((left / 1.3..right * 1.3).log_scale(), (low / 1.3..high * 1.6).log_scale())?;
    chart
        .configure_mesh()
        .x_desc(plot.x)
        .y_desc(plot.y)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| super::bars::number(*y))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (line, colour) in plot.lines.iter().zip(COLOURS.iter().cycle()) {
        let middle = line.points.iter().map(|(x, spread)| (*x, spread.median));
        chart
            .draw_series(LineSeries::new(middle, colour.stroke_width(2)))?
            .label(line.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(line.points.iter().map(|(x, spread)| {
            ErrorBar::new_vertical(*x, spread.least, spread.median, spread.most, colour.filled(), 6)
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sg_tests::figures::Figure;

    use super::{Run, write};

    #[test]
    fn what_was_measured_is_drawn_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let figure = |rules: u32, value: f64| Figure {
            figure: "full swap".to_owned(),
            unit: "ms".to_owned(),
            labels: json!({ "filter": "sgd", "rules": rules }),
            values: vec![value, value * 2.0],
        };
        let run = Run(vec![figure(10, 1.0), figure(10_000, 40.0)]);
        let written = write(&run, directory.path()).unwrap();
        assert_eq!(written.iter().map(|(file, _)| *file).collect::<Vec<_>>(), ["swap.svg"]);
        let svg = std::fs::read_to_string(directory.path().join("swap.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("sgd") && svg.contains("10000"), "{svg}");
    }
}
