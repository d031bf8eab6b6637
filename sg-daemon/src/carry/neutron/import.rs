//! From Neutron's answers to policy files.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::shape::{Document, MEANINGLESS, Port, SecurityGroup, SecurityGroupRule};
use super::{PROTOCOLS, VPC};
use crate::carry::build::{GroupRef, Member, Place};
use crate::carry::family::{ICMP, ICMPV6, Ports, icmp, icmp_protocol, network, ports};
use crate::carry::read::{document, wrong_shape};
use crate::carry::{Builder, DEVICE_TAG, File, Input, Options, Progress, ReadError, Remote, Report, Rule};
use crate::policy::model::{Match, Metadata, Protocol};
use crate::policy::values;

const COMMAND: &str = "curl -H \"X-Auth-Token: $TOKEN\" $NEUTRON/v2.0/security-groups > groups.json, and the same of \
                       /v2.0/ports (the openstack client's -f json is another form)";
/// Allowed address pairs may be networks; smaller ones are written address by address.
const MOST_ADDRESSES: u32 = 256;

/// Policy files of Neutron's answers.
///
/// # Errors
///
/// If a document cannot be read as one of them.
pub fn import(
    inputs: &[Input],
    options: &Options,
    progress: Progress<'_>,
) -> Result<(Vec<File>, Report), ReadError> {
    let mut documents = Vec::with_capacity(inputs.len());
    let mut sets = HashMap::new();
    for input in inputs {
        let mut document: Document = document(input)?;
        let Document { security_groups, ports, address_groups, .. } = &document;
        if security_groups.is_none() && ports.is_none() && address_groups.is_none() {
            return Err(wrong_shape(input, &document.rest, "\"security_groups\" or \"ports\"", COMMAND));
        }
        for set in document.address_groups.take().unwrap_or_default() {
            sets.insert(set.id, set.addresses);
        }
        documents.push((input.name.as_str(), document));
    }
    let mut import = Import { builder: Builder::new(options), sets };
    import.all(&mut documents, progress);
    let (files, report) = import.builder.finish(Metadata::Cidr);
    Ok((files, report))
}

struct Import<'o> {
    builder: Builder<'o>,
    /// Address groups.
    sets: HashMap<String, Vec<String>>,
}

/// A rule of one family, before both families' are put together.
struct Half {
    place: String,
    rule: Rule,
    v6: bool,
    group: Option<GroupRef>,
}

impl Import<'_> {
    fn all(&mut self, documents: &mut [(&str, Document)], progress: Progress<'_>) {
        let mut groups = Vec::new();
        for (file, document) in &mut *documents {
            for (index, group) in document.security_groups.take().unwrap_or_default().into_iter().enumerate()
            {
                let project = group.project_id.as_deref().or(group.tenant_id.as_deref()).unwrap_or("neutron");
                if let Some(registered) = self.builder.register(project, VPC, &group.id, &group.name) {
                    groups.push((registered, *file, format!("security_groups[{index}]"), group));
                }
            }
        }
        self.builder.name_groups();
        // Members first: a rule for one family's members has to know whether there are others.
        for (file, document) in &*documents {
            for (index, port) in document.ports.iter().flatten().enumerate() {
                let place = Place { file, path: format!("ports[{index}]") };
                self.port(&place, port);
            }
        }
        for group in self.builder.groups_with_allowed() {
            if let Some(group) = self.builder.edit(group) {
                group.include_allowed_addresses = true;
            }
        }
        let total = groups.len();
        for (done, (registered, file, path, group)) in groups.into_iter().enumerate() {
            progress(done, total);
            self.group(registered, &Place { file, path }, &group);
        }
        self.builder.report.note(
            "Neutron treats the metadata service like every other address: settings.metadata is \"cidr\"",
        );
    }

    fn group(&mut self, registered: GroupRef, place: &Place<'_>, group: &SecurityGroup) {
        let at = |path: String| Place { file: place.file, path: format!("{}.{path}", place.path) };
        let description =
            self.builder.group_text(&at("description".to_owned()), group.description.as_deref());
        if group.stateful == Some(false) {
            let why = format!(
                "group {:?} is stateless; here replies pass by themselves, which it does not allow",
                group.name
            );
            self.builder.loss(&at("stateful".to_owned()), why);
        }
        let mut lists = [Vec::new(), Vec::new()];
        for (index, rule) in group.security_group_rules.iter().enumerate() {
            let place = at(format!("security_group_rules[{index}]"));
            let [inbound, outbound] = &mut lists;
            let list = match rule.direction.as_str() {
                "ingress" => inbound,
                "egress" => outbound,
                other => {
                    self.builder
                        .loss(&place, format!("the direction {other:?} is neither ingress nor egress"));
                    continue;
                }
            };
            list.extend(self.rule(registered, &place, rule));
        }
        let [inbound, outbound] = lists.map(|list| self.together(list));
        if let Some(out) = self.builder.edit(registered) {
            out.description = description;
            out.inbound = inbound;
            out.outbound = outbound;
        }
    }

    fn rule(&mut self, from: GroupRef, place: &Place<'_>, rule: &SecurityGroupRule) -> Vec<Half> {
        let unknown: Vec<&str> = rule
            .rest
            .iter()
            .filter(|(name, value)| !value.is_null() && !MEANINGLESS.contains(&name.as_str()))
            .map(|(name, _)| name.as_str())
            .collect();
        if !unknown.is_empty() {
            let why =
                format!("the field {} is not known, and may change what the rule allows", unknown.join(", "));
            self.builder.loss(place, why);
            return Vec::new();
        }
        let v6 = match rule.ethertype.as_deref() {
            None | Some("IPv4") => false,
            Some("IPv6") => true,
            Some(other) => {
                self.builder.loss(place, format!("the ethertype {other:?} is neither IPv4 nor IPv6"));
                return Vec::new();
            }
        };
        let Some(protocol) = self.protocol(place, rule, v6) else { return Vec::new() };
        let Some(matches) = self.matches(place, rule, protocol) else { return Vec::new() };
        let at = Place { file: place.file, path: format!("{}.description", place.path) };
        let description = self.builder.rule_text(&at, rule.description.as_deref());
        let remotes = self.remotes(from, place, rule, v6);
        let half = |(remote, group): (Remote, Option<GroupRef>)| {
            let protocol = match protocol {
                Protocol::Number(number @ (ICMP | ICMPV6)) => icmp_protocol(number, &remote),
                other => other,
            };
            let rule = Rule { protocol, remote, matches: matches.clone(), description: description.clone() };
            Half { place: place.path.clone(), rule, v6, group }
        };
        remotes.into_iter().map(half).collect()
    }

    fn protocol(&mut self, place: &Place<'_>, rule: &SecurityGroupRule, v6: bool) -> Option<Protocol> {
        let Some(word) = &rule.protocol else { return Some(Protocol::All) };
        let word = word.text();
        let number = match word.as_str() {
            // What Neutron says of 0.
            "any" | "0" | "" => return Some(Protocol::All),
            name => {
                let known = PROTOCOLS.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
                known.or_else(|| values::decimal(name).and_then(|number| u8::try_from(number).ok()))
            }
        };
        match number {
            Some(6) => Some(Protocol::Tcp),
            Some(17) => Some(Protocol::Udp),
            // Neutron takes both names for what the family's is.
            Some(ICMP) if v6 => Some(Protocol::Number(ICMPV6)),
            Some(number) => Some(Protocol::Number(number)),
            None => {
                self.builder.loss(place, format!("the protocol {word:?} is not known; the rule is left out"));
                None
            }
        }
    }

    fn matches(&mut self, place: &Place<'_>, rule: &SecurityGroupRule, protocol: Protocol) -> Option<Match> {
        let (from, to) = (rule.port_range_min, rule.port_range_max);
        let place = Place { file: place.file, path: format!("{}.port_range_min", place.path) };
        match protocol {
            Protocol::Tcp | Protocol::Udp => match ports(from, to) {
                Ports::All => Some(Match::Any),
                Ports::Some(range) => Some(Match::Ports(range)),
                Ports::WithoutZero(range) => {
                    self.builder.loss(&place, "port 0 is left out of the range: rules here begin at port 1");
                    Some(Match::Ports(range))
                }
                Ports::OnlyZero => {
                    self.builder.loss(&place, "port 0: no rule here can be for it");
                    None
                }
                Ports::Wrong => {
                    self.builder.loss(&place, "half of a range of ports, or one that ends before it begins");
                    None
                }
            },
            Protocol::Number(ICMP | ICMPV6) => {
                let matches = icmp(from, to);
                if matches.is_none() {
                    self.builder.loss(&place, "not an ICMP type and code; the rule is left out");
                }
                matches
            }
            _ if from.is_none() && to.is_none() => Some(Match::Any),
            _ => {
                self.builder.loss(&place, "rules here have ports for TCP and UDP only; the rule is left out");
                None
            }
        }
    }

    fn remotes(
        &mut self,
        from: GroupRef,
        place: &Place<'_>,
        rule: &SecurityGroupRule,
        v6: bool,
    ) -> Vec<(Remote, Option<GroupRef>)> {
        if let Some(id) = &rule.remote_group_id {
            return match self.builder.reference(from, id) {
                Ok(group) => vec![(Remote::Group(self.builder.name(group).to_owned()), Some(group))],
                Err(why) => {
                    self.builder.loss(place, why);
                    Vec::new()
                }
            };
        }
        let texts = match (&rule.remote_address_group_id, &rule.remote_ip_prefix) {
            (Some(id), _) => match self.sets.get(id) {
                Some(addresses) => addresses.clone(),
                None => {
                    let why = format!(
                        "address group {id} is not in the input; give /v2.0/address-groups as one more file"
                    );
                    self.builder.loss(place, why);
                    return Vec::new();
                }
            },
            (None, Some(prefix)) => vec![prefix.clone()],
            (None, None) => {
                let any = if v6 { IpNet::V6(Ipv6Net::default()) } else { IpNet::V4(Ipv4Net::default()) };
                return vec![(Remote::Cidr(any), None)];
            }
        };
        let of_set = rule.remote_address_group_id.is_some();
        let mut remotes = Vec::new();
        for text in texts {
            match network(&text) {
                Some(net) if net.addr().is_ipv6() == v6 => remotes.push((Remote::Cidr(net), None)),
                // An address group may have both.
                Some(_) if of_set => {}
                _ => {
                    let family = if v6 { "IPv6" } else { "IPv4" };
                    self.builder
                        .loss(place, format!("{text:?} is not an {family} network; the rule is left out"));
                }
            }
        }
        remotes
    }

    /// A rule of Neutron's is for the members of one family, one of ours for those of both: two that differ in nothing else
    /// become one. One alone refers to a group of that family's members if there are others.
    fn together(&mut self, mut halves: Vec<Half>) -> Vec<Rule> {
        let mut rules = Vec::new();
        let mut waiting: HashMap<(GroupRef, bool, String), Vec<usize>> = HashMap::new();
        let key = |half: &Half, group: GroupRef, v6: bool| {
            let Rule { protocol, matches, description, .. } = &half.rule;
            (group, v6, format!("{protocol:?} {matches:?} {description}"))
        };
        let mut partner: HashMap<usize, usize> = HashMap::new();
        for (index, half) in halves.iter().enumerate() {
            let Some(group) = half.group.filter(|_| both_families(half.rule.protocol)) else { continue };
            match waiting.get_mut(&key(half, group, !half.v6)).filter(|others| !others.is_empty()) {
                Some(others) => {
                    partner.insert(others.remove(0), index);
                }
                None => waiting.entry(key(half, group, half.v6)).or_default().push(index),
            }
        }
        let second: BTreeSet<usize> = partner.values().copied().collect();
        for (index, half) in halves.iter_mut().enumerate() {
            if second.contains(&index) {
                continue;
            }
            if let Some(group) = half.group
                && both_families(half.rule.protocol)
                && !partner.contains_key(&index)
                && let Some(name) = self.members_of(group, half.v6, &half.place)
            {
                half.rule.remote = Remote::Group(name);
            }
            rules.push(half.rule.clone());
        }
        rules
    }

    /// The group of a group's members of one family; none if it has no others.
    fn members_of(&mut self, group: GroupRef, v6: bool, place: &str) -> Option<String> {
        let allowed = self.builder.edit(group).is_some_and(|group| group.include_allowed_addresses);
        let (own, others): (Vec<IpAddr>, Vec<IpAddr>) =
            self.builder.addresses(group, allowed).into_iter().partition(|address| address.is_ipv6() == v6);
        if others.is_empty() {
            return None;
        }
        let name = self.builder.name(group).to_owned();
        let family = if v6 { "ipv6" } else { "ipv4" };
        let description = format!("Only the {} members of {name}", if v6 { "IPv6" } else { "IPv4" });
        let description: String = description.chars().take(values::GROUP_DESCRIPTION_CHARS).collect();
        let short: String = name.chars().take(200).collect();
        let made = self.builder.add(
            group,
            &format!("{name}/{family}"),
            &format!("{short}-{family}"),
            &description,
        )?;
        self.builder.add_peers(made, &own);
        let name = self.builder.name(made).to_owned();
        self.builder.report.note(format!(
            "{place} is for the members of one family only; they are group {name:?} here, by the addresses of now"
        ));
        Some(name)
    }

    fn port(&mut self, place: &Place<'_>, port: &Port) {
        let tagged = port.tags.iter().find_map(|tag| tag.strip_prefix(DEVICE_TAG)?.strip_prefix('='));
        let host = self.builder.options.host.as_deref();
        let bound_here = host.is_some() && port.host_id.as_deref() == host;
        // As nova names them.
        let own_name = || format!("tap{}", port.id.chars().take(11).collect::<String>());
        let device = self.builder.options.devices.get(&port.id).cloned();
        let device = device.or_else(|| tagged.map(str::to_owned)).or_else(|| bound_here.then(own_name));
        let at = |path: String| Place { file: place.file, path: format!("{}.{path}", place.path) };
        if device.is_some() && port.device_owner.starts_with("network:") {
            self.builder.report.note(format!(
                "port {} is {}'s, not a guest's; it is not in the policy",
                port.id, port.device_owner
            ));
            return;
        }
        let mut member = Member {
            id: port.id.clone(),
            device,
            instance: port.device_id.clone(),
            mac: port.mac_address.clone(),
            bare_metal: port.port_security_enabled == Some(false),
            ..Member::default()
        };
        for (index, id) in port.security_groups.iter().enumerate() {
            match self.builder.group(id) {
                Some(group) => member.groups.push(group),
                None => {
                    let why = format!("port {} has group {id}, which is not in the input", port.id);
                    self.builder.loss(&at(format!("security_groups[{index}]")), why);
                }
            }
        }
        for (index, fixed) in port.fixed_ips.iter().enumerate() {
            let address =
                self.builder.address(&at(format!("fixed_ips[{index}].ip_address")), &fixed.ip_address);
            member.addresses.extend(address.filter(|address| !member.addresses.contains(address)));
        }
        for (index, pair) in port.allowed_address_pairs.iter().enumerate() {
            let place = at(format!("allowed_address_pairs[{index}]"));
            let mac = pair.mac_address.as_deref().zip(port.mac_address.as_deref());
            if mac.is_some_and(|(pair, own)| !pair.eq_ignore_ascii_case(own)) {
                self.builder.loss(
                    &place,
                    "the pair has another MAC address than the port, and an interface here has one",
                );
                continue;
            }
            for address in self.pair(&place, &pair.ip_address) {
                if !member.addresses.contains(&address) && !member.allowed_addresses.contains(&address) {
                    member.allowed_addresses.push(address);
                }
            }
        }
        if member.bare_metal {
            if let Some(device) = &member.device {
                self.builder.report.note(format!(
                    "port security is off on {device}: its kind is \"bare_metal\" here, and nothing is filtered on it"
                ));
            }
            // Neutron lets it have no groups.
            member.allowed_addresses.clear();
        }
        self.builder.member(place, member);
    }

    fn pair(&mut self, place: &Place<'_>, text: &str) -> Vec<IpAddr> {
        let Some(net) = network(text) else {
            self.builder.loss(place, format!("{text:?} is neither an address nor a network"));
            return Vec::new();
        };
        let bits = u32::from(net.max_prefix_len() - net.prefix_len());
        if 1u32.checked_shl(bits).is_none_or(|count| count > MOST_ADDRESSES) {
            let why = format!(
                "{text} has more than {MOST_ADDRESSES} addresses; an interface here has them one by one"
            );
            self.builder.loss(place, why);
            return Vec::new();
        }
        let texts: Vec<String> = match net {
            IpNet::V4(net) => (0..1u32 << bits)
                .map(|n| (u32::from(net.network()) + n).to_be_bytes())
                .map(|bytes| IpAddr::from(bytes).to_string())
                .collect(),
            IpNet::V6(net) => (0..1u128 << bits)
                .map(|n| IpAddr::from((u128::from(net.network()) + n).to_be_bytes()).to_string())
                .collect(),
        };
        texts.iter().filter_map(|text| self.builder.address(place, text)).collect()
    }
}

/// Rules of which the protocol is the same in both families. ICMP has a number in each.
fn both_families(protocol: Protocol) -> bool {
    !matches!(protocol, Protocol::Icmp | Protocol::Number(ICMP | ICMPV6))
}
