//! What the rules say of a remote, in the form of the maps' rows. Each is worked out when it is first asked for.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use serde_json::Value;
use sg_common::abi::{GUARD_DHCP, GUARD_ROUTER, PolicyDirection, PortSet, Row};

use super::half;
use crate::rules::{self, Direction, in_cidr, inside, list, setting, text};

/// 65,536 bits.
type Numbers = Vec<u64>;

#[derive(Default)]
pub(super) struct Rows {
    files: Vec<Value>,
    /// By number: the file and the interface in it.
    policies: BTreeMap<u32, (Value, Value)>,
    /// Who may be a member of something, by what [`Self::set`] says.
    addresses: Vec<IpAddr>,
    own: BTreeSet<(u32, IpAddr)>,
    /// By policy and direction, whether of `@group` rules, and remote. Rows are never removed.
    rows: RefCell<HashMap<(u32, bool, IpAddr), Box<Row>>>,
    tables: RefCell<Tables>,
}

#[derive(Default)]
struct Tables {
    all: Vec<Numbers>,
    index: HashMap<Numbers, u32>,
}

impl Rows {
    pub(super) fn new(files: &[Value], policies: Vec<(u32, Value, Value)>) -> Self {
        let mut addresses = BTreeSet::new();
        let mut own = BTreeSet::new();
        for file in files {
            for interface in list(file, "interfaces") {
                addresses.extend(half::own(interface));
            }
            addresses.extend(
                list(file, "peers").iter().map(|peer| text(&peer["address"]).parse::<IpAddr>().unwrap()),
            );
        }
        for (number, _, interface) in &policies {
            own.extend(half::own(interface).into_iter().map(|address| (*number, address)));
            own.extend(
                half::hosts(files, "routers").into_iter().map(|router| (*number | GUARD_ROUTER, router)),
            );
            let servers = half::hosts(files, "dhcp_servers");
            own.extend(servers.into_iter().map(|server| (*number | GUARD_DHCP, server)));
        }
        Self {
            files: files.to_vec(),
            policies: policies
                .into_iter()
                .map(|(number, file, interface)| (number, (file, interface)))
                .collect(),
            addresses: addresses.into_iter().collect(),
            own,
            ..Self::default()
        }
    }

    pub(super) fn owns(&self, guard: u32, address: IpAddr) -> bool {
        self.own.contains(&(guard, address))
    }

    /// The set of its own that an address is in.
    pub(super) fn set(&self, address: IpAddr) -> Option<u32> {
        self.addresses.binary_search(&address).ok().map(|number| number as u32 + 1)
    }

    pub(super) fn address(&self, set: u32) -> IpAddr {
        self.addresses[set as usize - 1]
    }

    pub(super) fn contains(&self, table: u32, number: u16) -> bool {
        self.tables.borrow().all[table as usize][usize::from(number / 64)] >> (number % 64) & 1 == 1
    }

    /// What the CIDR rules of a policy say of a remote, or its `@group` rules.
    pub(super) fn row(&self, policy: PolicyDirection, of_groups: bool, remote: IpAddr) -> &Row {
        let mut rows = self.rows.borrow_mut();
        let row = rows.entry((policy.0, of_groups, remote)).or_insert_with(|| {
            let mut columns = Columns::default();
            self.add(&mut columns, policy, of_groups, remote);
            let [tcp, udp, icmp, other] = columns.0.map(|numbers| self.tables.borrow_mut().set(numbers));
            Box::new(Row { tcp, udp, icmp, other })
        });
        // SAFETY: the row stays where it is as long as `self` does: boxes in the map are neither removed nor replaced.
        unsafe { &*std::ptr::from_ref::<Row>(row) }
    }

    fn add(&self, columns: &mut Columns, policy: PolicyDirection, of_groups: bool, remote: IpAddr) {
        let Some((file, interface)) = self.policies.get(&policy.policy()) else { return };
        let direction = if policy.0 & 1 == 0 { Direction::Inbound } else { Direction::Outbound };
        let reserved = direction == Direction::Outbound && in_cidr(remote, "169.254.169.0/24");
        let metadata = setting(&self.files, "metadata");
        if reserved && metadata == "exempt" && !of_groups {
            columns.allow(0, 80..=80);
        }
        if interface["role"] == "host" && !of_groups {
            for rule in rules::failsafe(&self.files, direction) {
                if in_cidr(remote, text(&rule[direction.remote()])) {
                    columns.add(&rule, remote, false);
                }
            }
        }
        let explicit = metadata.is_null() || metadata == "explicit";
        for name in list(interface, "security_groups").iter().map(text) {
            let home = rules::home(&self.files, file, name);
            for rule in rules::rules(&self.files, file, home, name, direction) {
                let target = text(&rule[direction.remote()]);
                let hit = match target.strip_prefix('@') {
                    Some(group) => of_groups && rules::is_member(&self.files, file, group, remote),
                    None => !of_groups && in_cidr(remote, target),
                };
                if hit {
                    let barred =
                        reserved && explicit && name != "default" && !inside(target, "169.254.0.0/16");
                    columns.add(&rule, remote, barred);
                }
            }
        }
    }
}

/// TCP, UDP, ICMP, others.
struct Columns([Numbers; 4]);

impl Default for Columns {
    fn default() -> Self {
        Self([(); 4].map(|()| vec![0; 1024]))
    }
}

impl Columns {
    fn allow(&mut self, column: usize, numbers: std::ops::RangeInclusive<u32>) {
        for number in numbers {
            self.0[column][number as usize / 64] |= 1 << (number % 64);
        }
    }

    /// Adds what a rule says of a remote; if it is `barred`, without TCP port 80.
    fn add(&mut self, rule: &Value, remote: IpAddr, barred: bool) {
        let http = self.0[0][1] & 1 << (80 - 64);
        let protocol = match &rule["protocol"] {
            Value::String(name) => name.to_ascii_lowercase(),
            number => number.to_string(),
        };
        let icmp = if remote.is_ipv4() { "1" } else { "58" };
        let number = match protocol.as_str() {
            "all" => "all",
            "tcp" => "6",
            "udp" => "17",
            "icmp" => icmp,
            "icmpv6" => "58",
            "ipip" => "4",
            "gre" => "47",
            "esp" => "50",
            "ah" => "51",
            "sctp" => "132",
            number => number,
        };
        match number {
            "all" => (0..4).for_each(|column| self.0[column].fill(u64::MAX)),
            "6" | "17" => {
                let ports = match &rule["port"] {
                    Value::Number(port) => port.to_string(),
                    ports => text(ports).to_ascii_lowercase(),
                };
                let (low, high) = match ports.as_str() {
                    "all" => (0, 65535),
                    ports => {
                        let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
                        (low.parse().unwrap(), high.parse().unwrap())
                    }
                };
                self.allow(usize::from(number == "17"), low..=high);
            }
            number if number == icmp => {
                let one_or_all = |field: &Value| field.as_u64().map_or(0..=255, |n| n as u32..=n as u32);
                for kind in one_or_all(&rule["icmp_type"]) {
                    for code in one_or_all(&rule["icmp_code"]) {
                        self.allow(2, kind << 8 | code..=kind << 8 | code);
                    }
                }
            }
            // A packet that is not its family's ICMP has no type.
            number if rule["icmp_type"].is_null() => {
                let number = number.parse().unwrap();
                self.allow(3, number..=number);
            }
            _ => {}
        }
        if barred {
            self.0[0][1] = self.0[0][1] & !(1 << (80 - 64)) | http;
        }
    }
}

impl Tables {
    /// The numbers in 32 bits, as the compiler would write them.
    fn set(&mut self, numbers: Numbers) -> PortSet {
        let count: u32 = numbers.iter().map(|word| word.count_ones()).sum();
        let Some(first) = numbers.iter().position(|word| *word != 0) else { return PortSet::EMPTY };
        let low = first as u32 * 64 + numbers[first].trailing_zeros();
        let last = numbers.iter().rposition(|word| *word != 0).unwrap();
        let high = last as u32 * 64 + 63 - numbers[last].leading_zeros();
        if high - low + 1 == count {
            return PortSet::range(low as u16, high as u16);
        }
        let all = &mut self.all;
        let index = *self.index.entry(numbers).or_insert_with_key(|numbers| {
            all.push(numbers.clone());
            all.len() as u32 - 1
        });
        PortSet::table(index).unwrap()
    }
}
