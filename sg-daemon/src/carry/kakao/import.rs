//! From KakaoCloud's answers to policy files. Its rules are what ours were made after: little is to be translated.

use ipnet::{IpNet, Ipv4Net};

use super::VPC;
use super::shape::{Document, MEANINGLESS, NetworkInterface, Port, SecurityGroup, SecurityGroupRule};
use crate::carry::build::{GroupRef, Member, Place};
use crate::carry::family::{Ports, network, ports};
use crate::carry::read::{document, wrong_shape};
use crate::carry::{Builder, DEVICE_TAG, File, Input, Options, Progress, ReadError, Remote, Report, Rule};
use crate::policy::model::{Match, Metadata, Protocol};
use crate::policy::values;

const COMMAND: &str = "curl -H \"X-Auth-Token: $TOKEN\" of the VPC API's security-groups > groups.json, and of its \
                       network-interfaces > interfaces.json";

/// Policy files of KakaoCloud's answers.
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
    for input in inputs {
        let document: Document = document(input)?;
        if document.security_groups.is_none() && document.network_interfaces.is_none() {
            let expected = "\"security_groups\" or \"network_interfaces\"";
            return Err(wrong_shape(input, &document.rest, expected, COMMAND));
        }
        documents.push((input.name.as_str(), document));
    }
    let mut import = Import { builder: Builder::new(options) };
    import.all(&mut documents, progress);
    // What SPEC K27 is after.
    let (files, report) = import.builder.finish(Metadata::Explicit);
    Ok((files, report))
}

struct Import<'o> {
    builder: Builder<'o>,
}

impl Import<'_> {
    fn all(&mut self, documents: &mut [(&str, Document)], progress: Progress<'_>) {
        let mut groups = Vec::new();
        for (file, document) in &mut *documents {
            for (index, group) in document.security_groups.take().unwrap_or_default().into_iter().enumerate()
            {
                let project = group.project_id.as_deref().unwrap_or("kakao");
                let vpc = group.vpc_id.as_deref().unwrap_or(VPC);
                if let Some(registered) = self.builder.register(project, vpc, &group.id, &group.name) {
                    groups.push((registered, *file, format!("security_groups[{index}]"), group));
                }
            }
        }
        self.builder.name_groups();
        let total = groups.len();
        for (done, (registered, file, path, group)) in groups.into_iter().enumerate() {
            progress(done, total);
            self.group(registered, &Place { file, path }, &group);
        }
        for (file, document) in &*documents {
            for (index, interface) in document.network_interfaces.iter().flatten().enumerate() {
                let place = Place { file, path: format!("network_interfaces[{index}]") };
                self.interface(&place, interface);
            }
        }
    }

    fn group(&mut self, registered: GroupRef, place: &Place<'_>, group: &SecurityGroup) {
        let at = |path: String| Place { file: place.file, path: format!("{}.{path}", place.path) };
        let description =
            self.builder.group_text(&at("description".to_owned()), group.description.as_deref());
        let mut lists = [Vec::new(), Vec::new()];
        for (index, rule) in group.rules.iter().enumerate() {
            let place = at(format!("rules[{index}]"));
            let [inbound, outbound] = &mut lists;
            let list = match rule.direction.to_ascii_lowercase().as_str() {
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
        let [inbound, outbound] = lists;
        if let Some(out) = self.builder.edit(registered) {
            out.description = description;
            out.inbound = inbound;
            out.outbound = outbound;
        }
    }

    fn rule(&mut self, from: GroupRef, place: &Place<'_>, rule: &SecurityGroupRule) -> Option<Rule> {
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
            return None;
        }
        let protocol = match rule.protocol.as_deref().map(values::protocol) {
            None => Protocol::All,
            Some(Ok(protocol)) => protocol,
            Some(Err(fault)) => {
                self.builder.loss(place, fault.to_line());
                return None;
            }
        };
        let matches = self.matches(place, rule, protocol)?;
        let remote = match (&rule.remote_group_id, &rule.remote_ip_prefix) {
            (Some(_), Some(_)) => {
                self.builder.loss(place, "the rule has both remote_group_id and remote_ip_prefix");
                return None;
            }
            (Some(id), None) => match self.builder.reference(from, id) {
                Ok(group) => Remote::Group(self.builder.name(group).to_owned()),
                Err(why) => {
                    self.builder.loss(place, why);
                    return None;
                }
            },
            (None, Some(prefix)) => match network(prefix) {
                Some(net) => Remote::Cidr(net),
                None => {
                    self.builder.loss(place, format!("{prefix:?} is not a network; the rule is left out"));
                    return None;
                }
            },
            (None, None) => Remote::Cidr(IpNet::V4(Ipv4Net::default())),
        };
        let at = Place { file: place.file, path: format!("{}.description", place.path) };
        let description = self.builder.rule_text(&at, rule.description.as_deref());
        Some(Rule { protocol, remote, matches, description })
    }

    fn matches(&mut self, place: &Place<'_>, rule: &SecurityGroupRule, protocol: Protocol) -> Option<Match> {
        let at = Place { file: place.file, path: format!("{}.port_range_min", place.path) };
        let number = |port: &Option<Port>| match port.as_ref().map(|port| port.0.text()).as_deref() {
            None | Some("all" | "") => Ok(None),
            Some(text) => {
                text.parse::<i64>().map(Some).map_err(|_| format!("{text:?} is not a port or \"ALL\""))
            }
        };
        let (from, to) = match (number(&rule.port_range_min), number(&rule.port_range_max)) {
            (Ok(from), Ok(to)) => (from, to),
            (Err(why), _) | (_, Err(why)) => {
                self.builder.loss(&at, why);
                return None;
            }
        };
        if !matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            if from.is_some() || to.is_some() {
                self.builder.loss(&at, "a port on a rule that is neither TCP nor UDP; the rule is left out");
                return None;
            }
            return Some(Match::Any);
        }
        match ports(from, to) {
            Ports::All => Some(Match::Any),
            Ports::Some(range) => Some(Match::Ports(range)),
            Ports::WithoutZero(_) | Ports::OnlyZero | Ports::Wrong => {
                self.builder.loss(&at, "not a range of ports within 1 to 65535; the rule is left out");
                None
            }
        }
    }

    fn interface(&mut self, place: &Place<'_>, interface: &NetworkInterface) {
        let at = |path: String| Place { file: place.file, path: format!("{}.{path}", place.path) };
        let tagged = interface.tags.iter().find_map(|tag| tag.strip_prefix(DEVICE_TAG)?.strip_prefix('='));
        let device = self.builder.options.devices.get(&interface.id).cloned();
        let mut member = Member {
            id: interface.id.clone(),
            device: device.or_else(|| tagged.map(str::to_owned)),
            instance: interface.instance_id.clone().unwrap_or_default(),
            mac: interface.mac_address.clone(),
            bare_metal: interface.is_bare_metal == Some(true),
            ..Member::default()
        };
        for (index, group) in interface.security_groups.iter().enumerate() {
            match self.builder.group(group.id()) {
                Some(found) => member.groups.push(found),
                None => {
                    let why = format!(
                        "interface {} has group {}, which is not in the input",
                        interface.id,
                        group.id()
                    );
                    self.builder.loss(&at(format!("security_groups[{index}]")), why);
                }
            }
        }
        let own = interface.private_ip.iter().map(|text| ("private_ip".to_owned(), text));
        let more = interface.secondary_ips.iter().enumerate();
        let more = more.map(|(index, text)| (format!("secondary_ips[{index}]"), text));
        for (path, text) in own.chain(more) {
            let address = self.builder.address(&at(path), text);
            member.addresses.extend(address.filter(|address| !member.addresses.contains(address)));
        }
        for (index, pair) in interface.allowed_address_pairs.iter().enumerate() {
            let address = self
                .builder
                .address(&at(format!("allowed_address_pairs[{index}].ip_address")), &pair.ip_address);
            member.allowed_addresses.extend(address.filter(|address| {
                !member.addresses.contains(address) && !member.allowed_addresses.contains(address)
            }));
        }
        if member.device.is_none() {
            // They are no members of its groups.
            member.allowed_addresses.clear();
        }
        self.builder.member(place, member);
    }
}
