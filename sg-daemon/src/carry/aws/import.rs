//! From EC2's answers to policy files.

use std::collections::{BTreeMap, HashMap};

use ipnet::IpNet;

use super::shape::{
    Document, IpPermission, IpRange, Ipv6Range, NetworkInterface, PrefixListEntries, PrefixListId,
    SecurityGroup, SecurityGroupRule, UserIdGroupPair,
};
use crate::carry::build::{GroupRef, Member, Place};
use crate::carry::family::{ICMP, ICMPV6, Ports, icmp, icmp_protocol, network, ports};
use crate::carry::read::{Rest, document, wrong_shape};
use crate::carry::{
    Builder, DEVICE_TAG, File, Input, Options, PrefixEntry, Progress, ReadError, Remote, Report, Rule,
};
use crate::policy::model::{Match, Metadata, Protocol};
use crate::policy::values;

const COMMAND: &str = "aws ec2 describe-security-groups > groups.json, and \
                       aws ec2 describe-network-interfaces > interfaces.json";

/// Policy files of EC2's answers.
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
        let Document { security_groups, security_group_rules, network_interfaces, .. } = &document;
        if security_groups.is_none() && security_group_rules.is_none() && network_interfaces.is_none() {
            let expected = "\"SecurityGroups\" or \"NetworkInterfaces\"";
            return Err(wrong_shape(input, &document.rest, expected, COMMAND));
        }
        documents.push((input.name.as_str(), document));
    }
    let mut import = Import { builder: Builder::new(options), rules: HashMap::new(), names: HashMap::new() };
    import.all(&mut documents, progress);
    let (files, report) = import.builder.finish(Metadata::Exempt);
    Ok((files, report))
}

/// The entries of a prefix list.
///
/// # Errors
///
/// If the document is another one, or has a network that is none.
pub fn prefix_list(input: &Input) -> Result<Vec<PrefixEntry>, ReadError> {
    let list: PrefixListEntries = document(input)?;
    let command = "aws ec2 get-managed-prefix-list-entries --prefix-list-id pl-… > pl.json";
    let Some(entries) = list.entries else {
        return Err(wrong_shape(input, &list.rest, "\"Entries\"", command));
    };
    let whole = |why: String| ReadError::Shape { file: input.name.clone(), why };
    if list.next_token.is_some() {
        return Err(whole("NextToken: there are more entries than these; let aws read all pages".to_owned()));
    }
    let entry = |(index, entry): (usize, super::shape::Entry)| {
        let net = network(&entry.cidr)
            .ok_or_else(|| whole(format!("Entries[{index}].Cidr: {:?} is not a network", entry.cidr)))?;
        Ok(PrefixEntry { net, description: entry.description.unwrap_or_default() })
    };
    entries.into_iter().enumerate().map(entry).collect()
}

/// The permissions of a group with the path of each: inbound, outbound.
type Rules = [Vec<(String, IpPermission)>; 2];

struct Import<'o> {
    builder: Builder<'o>,
    /// From `describe-security-group-rules`, by group: the file and the rules.
    rules: HashMap<String, (String, Rules)>,
    /// Names by project and VPC, for the few references that have no id.
    names: HashMap<(String, String), String>,
}

impl Import<'_> {
    fn all(&mut self, documents: &mut [(&str, Document)], progress: Progress<'_>) {
        for (file, document) in &mut *documents {
            if document.next_token.is_some() {
                let why = "there are more pages than this one; let aws read them all (no --no-paginate)";
                self.builder.report.loss(file, "NextToken", why);
            }
            for (index, rule) in
                document.security_group_rules.take().unwrap_or_default().into_iter().enumerate()
            {
                self.rule_apart(file, index, rule);
            }
        }
        let mut groups = Vec::new();
        for (file, document) in &mut *documents {
            for (index, group) in document.security_groups.take().unwrap_or_default().into_iter().enumerate()
            {
                let path = format!("SecurityGroups[{index}]");
                if let Some(registered) = self.register(file, &path, &group) {
                    groups.push((registered, *file, path, group));
                }
            }
        }
        groups.extend(self.rules_alone(documents));
        self.builder.name_groups();
        let total = groups.len();
        for (done, (registered, file, path, group)) in groups.into_iter().enumerate() {
            progress(done, total);
            self.group(registered, file, &path, group);
        }
        for (file, document) in &*documents {
            for (index, interface) in document.network_interfaces.iter().flatten().enumerate() {
                let place = Place { file, path: format!("NetworkInterfaces[{index}]") };
                self.interface(&place, interface);
            }
        }
        self.builder.report.note(
            "AWS never filters the metadata service: settings.metadata is \"exempt\", the same for TCP 80 of 169.254.169.0/24",
        );
        self.builder.report.note(
            "AWS never filters its DNS resolver, DHCP and time service (169.254.169.123) either; here DHCP passes, and DNS and \
             NTP need rules where a group does not let everything out",
        );
    }

    fn register(&mut self, file: &str, path: &str, group: &SecurityGroup) -> Option<GroupRef> {
        let Some(vpc) = group.vpc_id.as_deref().or(self.builder.options.vpc.as_deref()) else {
            let why = format!("group {} is in no VPC; --vpc NAME gives it one", group.group_id);
            self.builder.report.loss(file, path, why);
            return None;
        };
        let owner = if group.owner_id.is_empty() { "aws" } else { &group.owner_id };
        let name = (vpc.to_owned(), group.group_name.clone());
        self.names.entry(name).or_insert_with(|| group.group_id.clone());
        self.builder.register(owner, vpc, &group.group_id, &group.group_name)
    }

    /// A rule of `describe-security-group-rules`, as a permission with one range.
    fn rule_apart(&mut self, file: &str, index: usize, rule: SecurityGroupRule) {
        let permission = IpPermission {
            ip_protocol: rule.ip_protocol,
            from_port: rule.from_port,
            to_port: rule.to_port,
            ip_ranges: rule
                .cidr_ipv4
                .map(|cidr_ip| IpRange { cidr_ip, description: rule.description.clone(), rest: Rest::new() })
                .into_iter()
                .collect(),
            ipv6_ranges: rule
                .cidr_ipv6
                .map(|cidr_ipv6| Ipv6Range {
                    cidr_ipv6,
                    description: rule.description.clone(),
                    rest: Rest::new(),
                })
                .into_iter()
                .collect(),
            prefix_list_ids: rule
                .prefix_list_id
                .map(|prefix_list_id| PrefixListId {
                    prefix_list_id,
                    description: rule.description.clone(),
                    rest: Rest::new(),
                })
                .into_iter()
                .collect(),
            user_id_group_pairs: rule
                .referenced_group_info
                .map(|group| UserIdGroupPair {
                    group_id: group.group_id,
                    user_id: group.user_id,
                    vpc_peering_connection_id: group.vpc_peering_connection_id,
                    peering_status: group.peering_status,
                    description: rule.description,
                    ..UserIdGroupPair::default()
                })
                .into_iter()
                .collect(),
            rest: Rest::new(),
        };
        let (_, [inbound, outbound]) =
            self.rules.entry(rule.group_id).or_insert_with(|| (file.to_owned(), Rules::default()));
        let rules = if rule.is_egress { outbound } else { inbound };
        rules.push((format!("SecurityGroupRules[{index}]"), permission));
    }

    /// Groups of which only the rules are known: they are called by their ids, and `--vpc` says where they are.
    fn rules_alone<'d>(
        &mut self,
        documents: &[(&'d str, Document)],
    ) -> Vec<(GroupRef, &'d str, String, SecurityGroup)> {
        let mut alone: Vec<String> =
            self.rules.keys().filter(|id| self.builder.group(id).is_none()).cloned().collect();
        alone.sort_unstable();
        let mut groups = Vec::new();
        for id in alone {
            let from = self.rules.get(&id).map(|(file, _)| file.clone()).unwrap_or_default();
            let file = documents.iter().map(|(file, _)| *file).find(|file| *file == from).unwrap_or("");
            let group = SecurityGroup {
                group_name: id.clone(),
                group_id: id,
                owner_id: self.builder.options.project.clone().unwrap_or_default(),
                ..SecurityGroup::default()
            };
            let path = "SecurityGroupRules".to_owned();
            if let Some(registered) = self.register(file, &path, &group) {
                self.builder.report.note(format!(
                    "group {} is known by its rules only; describe-security-groups would tell its name",
                    group.group_id
                ));
                groups.push((registered, file, path, group));
            }
        }
        groups
    }

    fn group(&mut self, registered: GroupRef, file: &str, path: &str, mut group: SecurityGroup) {
        let place = Place { file, path: format!("{path}.Description") };
        let description = self.builder.group_text(&place, Some(&group.description));
        let (from, [inbound, outbound]) = match self.rules.remove(&group.group_id) {
            Some(apart) => apart,
            None => {
                let named = |list: &str, permissions: Vec<IpPermission>| {
                    let path = |index: usize| format!("{path}.{list}[{index}]");
                    permissions.into_iter().enumerate().map(|(index, one)| (path(index), one)).collect()
                };
                let inbound = named("IpPermissions", std::mem::take(&mut group.ip_permissions));
                let outbound = named("IpPermissionsEgress", std::mem::take(&mut group.ip_permissions_egress));
                (file.to_owned(), [inbound, outbound])
            }
        };
        let group = Owned { group: registered, owner: group.owner_id, vpc: group.vpc_id.unwrap_or_default() };
        let mut lists = [Vec::new(), Vec::new()];
        for (list, permissions) in lists.iter_mut().zip([inbound, outbound]) {
            for (path, permission) in permissions {
                let place = Place { file: &from, path };
                list.extend(self.permission(&group, &place, &permission));
            }
        }
        let [inbound, outbound] = lists;
        if let Some(out) = self.builder.edit(registered) {
            out.description = description;
            out.inbound = inbound;
            out.outbound = outbound;
        }
    }

    fn permission(&mut self, group: &Owned, place: &Place<'_>, permission: &IpPermission) -> Vec<Rule> {
        if !self.known(place, &permission.rest) {
            return Vec::new();
        }
        let Some(protocol) = self.protocol(place, permission) else { return Vec::new() };
        let Some(matches) = self.matches(place, permission, protocol) else { return Vec::new() };
        let mut rules = Vec::new();
        let mut add = |remote: Remote, description: String| {
            let protocol = match protocol {
                Protocol::Number(number @ (ICMP | ICMPV6)) => icmp_protocol(number, &remote),
                other => other,
            };
            rules.push(Rule { protocol, remote, matches: matches.clone(), description });
        };
        let at = |list: &str, index: usize| Place {
            file: place.file,
            path: format!("{}.{list}[{index}]", place.path),
        };
        for (index, range) in permission.ip_ranges.iter().enumerate() {
            let place = at("IpRanges", index);
            let net = self.net(&place, &range.rest, &range.cidr_ip, false);
            if let Some(net) = net {
                add(Remote::Cidr(net), self.rule_text(&place, range.description.as_deref()));
            }
        }
        for (index, range) in permission.ipv6_ranges.iter().enumerate() {
            let place = at("Ipv6Ranges", index);
            let net = self.net(&place, &range.rest, &range.cidr_ipv6, true);
            if let Some(net) = net {
                add(Remote::Cidr(net), self.rule_text(&place, range.description.as_deref()));
            }
        }
        for (index, list) in permission.prefix_list_ids.iter().enumerate() {
            let place = at("PrefixListIds", index);
            if !self.known(&place, &list.rest) {
                continue;
            }
            let Some(entries) = self.builder.options.prefix_lists.get(&list.prefix_list_id) else {
                let id = &list.prefix_list_id;
                self.builder.loss(
                    &place,
                    format!("the networks of prefix list {id} are not in the input; give them with --prefix-list {id}=FILE, \
                             from aws ec2 get-managed-prefix-list-entries --prefix-list-id {id}"),
                );
                continue;
            };
            for entry in entries.clone() {
                let description =
                    list.description.clone().filter(|text| !text.is_empty()).unwrap_or(entry.description);
                add(Remote::Cidr(entry.net), self.rule_text(&place, Some(&description)));
            }
        }
        for (index, pair) in permission.user_id_group_pairs.iter().enumerate() {
            let place = at("UserIdGroupPairs", index);
            if let Some(name) = self.pair(group, &place, pair) {
                add(Remote::Group(name), self.rule_text(&place, pair.description.as_deref()));
            }
        }
        rules
    }

    fn rule_text(&mut self, place: &Place<'_>, text: Option<&str>) -> String {
        let place = Place { file: place.file, path: format!("{}.Description", place.path) };
        self.builder.rule_text(&place, text)
    }

    /// A field that is not known may narrow the rule: better none than one that allows more.
    fn known(&mut self, place: &Place<'_>, rest: &Rest) -> bool {
        let unknown: Vec<&str> =
            rest.iter().filter(|(_, value)| !value.is_null()).map(|(name, _)| name.as_str()).collect();
        if unknown.is_empty() {
            return true;
        }
        let why =
            format!("the field {} is not known, and may change what the rule allows", unknown.join(", "));
        self.builder.loss(place, why);
        false
    }

    fn protocol(&mut self, place: &Place<'_>, permission: &IpPermission) -> Option<Protocol> {
        let word = permission.ip_protocol.as_ref().map(|word| word.0.text());
        let protocol = match word.as_deref() {
            Some("-1" | "all") => Ok(Protocol::All),
            Some("icmp") => Ok(Protocol::Number(ICMP)),
            Some(word) => values::protocol(word),
            None => {
                self.builder.loss(place, "the permission has no IpProtocol");
                return None;
            }
        };
        match protocol {
            Ok(protocol) => Some(protocol),
            Err(fault) => {
                let place = Place { file: place.file, path: format!("{}.IpProtocol", place.path) };
                self.builder.loss(&place, fault.to_line());
                None
            }
        }
    }

    fn matches(&mut self, place: &Place<'_>, permission: &IpPermission, protocol: Protocol) -> Option<Match> {
        let (from, to) = (permission.from_port, permission.to_port);
        let place = Place { file: place.file, path: format!("{}.FromPort", place.path) };
        let (from_text, to_text) = (from.unwrap_or(-1), to.unwrap_or(-1));
        match protocol {
            Protocol::Tcp | Protocol::Udp if from == Some(-1) && to == Some(-1) => Some(Match::Any),
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
                    let why = format!("{from_text} to {to_text} are not ports; the rule is left out");
                    self.builder.loss(&place, why);
                    None
                }
            },
            Protocol::Number(ICMP | ICMPV6) => {
                let matches = icmp(from, to);
                if matches.is_none() {
                    let why = format!(
                        "{from_text} and {to_text} are not an ICMP type and code; the rule is left out"
                    );
                    self.builder.loss(&place, why);
                }
                matches
            }
            // Of other protocols AWS says: traffic on all ports is allowed, whatever range is written.
            _ => Some(Match::Any),
        }
    }

    fn net(&mut self, place: &Place<'_>, rest: &Rest, text: &str, v6: bool) -> Option<IpNet> {
        if !self.known(place, rest) {
            return None;
        }
        let net = network(text).filter(|net| net.addr().is_ipv6() == v6);
        let net = net.and_then(|net| values::cidr(&net.to_string()).ok());
        if net.is_none() {
            let family = if v6 { "IPv6" } else { "IPv4" };
            self.builder.loss(place, format!("{text:?} is not an {family} network; the rule is left out"));
        }
        net
    }

    fn pair(&mut self, group: &Owned, place: &Place<'_>, pair: &UserIdGroupPair) -> Option<String> {
        if !self.known(place, &pair.rest) {
            return None;
        }
        let id = match (&pair.group_id, &pair.group_name) {
            (Some(id), _) => id.clone(),
            (None, Some(name)) => {
                self.names.get(&(group.vpc.clone(), name.clone())).cloned().unwrap_or_else(|| name.clone())
            }
            (None, None) => {
                self.builder.loss(place, "the rule names no group");
                return None;
            }
        };
        if let Some(peering) = &pair.vpc_peering_connection_id {
            let why = format!(
                "the rule refers to group {id} of a peer VPC ({peering}); groups do not reach across VPCs"
            );
            self.builder.loss(place, why);
            return None;
        }
        let foreign = pair.user_id.as_deref().filter(|user| !group.owner.is_empty() && *user != group.owner);
        if let (Some(user), None) = (foreign, self.builder.group(&id)) {
            self.builder.loss(place, format!("the rule refers to group {id} of another account ({user})"));
            return None;
        }
        match self.builder.reference(group.group, &id) {
            Ok(found) => Some(self.builder.name(found).to_owned()),
            Err(why) => {
                self.builder.loss(place, why);
                None
            }
        }
    }

    fn interface(&mut self, place: &Place<'_>, interface: &NetworkInterface) {
        let id = &interface.network_interface_id;
        let tags: BTreeMap<&str, &str> =
            interface.tag_set.iter().map(|tag| (tag.key.as_str(), tag.value.as_str())).collect();
        let device = self.builder.options.devices.get(id).cloned();
        let device = device.or_else(|| tags.get(DEVICE_TAG).map(|device| (*device).to_owned()));
        let sub = |list: &str, index: usize| Place {
            file: place.file,
            path: format!("{}.{list}[{index}]", place.path),
        };
        let mut member = Member {
            id: id.clone(),
            device,
            instance: interface
                .attachment
                .as_ref()
                .and_then(|attachment| attachment.instance_id.clone())
                .unwrap_or_default(),
            mac: interface.mac_address.clone(),
            unguarded: interface.source_dest_check == Some(false),
            ..Member::default()
        };
        for (index, group) in interface.groups.iter().enumerate() {
            match self.builder.group(&group.group_id) {
                Some(found) => member.groups.push(found),
                None => {
                    let why =
                        format!("interface {id} has group {}, which is not in the input", group.group_id);
                    self.builder.loss(&sub("Groups", index), why);
                }
            }
        }
        let mut texts: Vec<(String, &str)> = Vec::new();
        for (index, address) in interface.private_ip_addresses.iter().enumerate() {
            texts.push((format!("PrivateIpAddresses[{index}]"), &address.private_ip_address));
        }
        if let (Some(only), true) = (&interface.private_ip_address, texts.is_empty()) {
            texts.push(("PrivateIpAddress".to_owned(), only));
        }
        for (index, address) in interface.ipv6_addresses.iter().enumerate() {
            texts.push((format!("Ipv6Addresses[{index}]"), &address.address));
        }
        for (path, text) in texts {
            let place = Place { file: place.file, path: format!("{}.{path}", place.path) };
            let address = self.builder.address(&place, text);
            member.addresses.extend(address.filter(|address| !member.addresses.contains(address)));
        }
        for (list, prefixes) in
            [("Ipv4Prefixes", &interface.ipv4_prefixes), ("Ipv6Prefixes", &interface.ipv6_prefixes)]
        {
            if !prefixes.is_empty() {
                let why = format!(
                    "interface {id} has whole blocks of addresses, which are no members of groups here"
                );
                self.builder.loss(&sub(list, 0), why);
            }
        }
        if member.unguarded && member.device.is_some() {
            self.builder.report.note(format!(
                "{id} may forward (SourceDestCheck is false): its interface has no addresses here, so that any source passes"
            ));
        }
        self.builder.member(place, member);
    }
}

/// A group with what its references are compared with.
struct Owned {
    group: GroupRef,
    owner: String,
    vpc: String,
}
