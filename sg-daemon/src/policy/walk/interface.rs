//! Interfaces and peers (SPEC sections 1 and 4).

use std::collections::HashMap;
use std::net::IpAddr;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::{Range, Ranged};

use super::{Path, Walk, field};
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::fields;
use crate::policy::model::{Enforcement, HookChoice, Kind, Role};
use crate::policy::raw::{Known, RawInterface, RawPeer, RawTimeouts};
use crate::policy::source::{Span, Spanned};
use crate::policy::values::{self, NAME_CHARS};

const KINDS: &[(&str, Kind)] =
    &[("vm", Kind::Vm), ("container", Kind::Container), ("bare_metal", Kind::BareMetal)];
const ROLES: &[(&str, Role)] = &[("guest", Role::Guest), ("host", Role::Host)];
const ENFORCEMENTS: &[(&str, Enforcement)] =
    &[("enforce", Enforcement::Enforce), ("audit", Enforcement::Audit)];
const HOOKS: &[(&str, HookChoice)] =
    &[("auto", HookChoice::Auto), ("xdp", HookChoice::Xdp), ("tc", HookChoice::Tc)];

impl Walk<'_, '_> {
    pub(super) fn interface(
        &mut self,
        value: &Value<'_>,
        path: &Path<'_>,
        index: usize,
    ) -> Option<RawInterface> {
        let object = self.object(value, path, fields::INTERFACE)?;
        let name = self.required(object, path, "name").and_then(|value| {
            let path = path.field("name");
            let name = self.string(value, &path, "a device name")?;
            self.check(value, &path, values::device_name(name));
            Some(self.spanned(name.to_owned(), value))
        });
        let kind = self.word(object, path, "kind", KINDS).map(|kind| kind.value);
        let mac = field(object, "mac").and_then(|value| {
            let path = path.field("mac");
            let text = self.string(value, &path, "a MAC address")?;
            self.check(value, &path, values::mac(text))
        });
        let mut seen = HashMap::new();
        let addresses = self.addresses(object, path, "addresses", &mut seen);
        let allowed_addresses = self.addresses(object, path, "allowed_addresses", &mut seen);
        let groups = self.group_names(object, path);
        // An unknown kind may have been meant for bare metal.
        let kind_is_known = kind.is_some() || field(object, "kind").is_none();
        if groups.as_ref().is_some_and(Vec::is_empty) && kind_is_known && kind != Some(Kind::BareMetal) {
            self.no_group(object, path, name.as_ref());
        }
        let timeouts = match field(object, "timeouts") {
            Some(value) => self.timeouts(value, &path.field("timeouts")),
            None => RawTimeouts::default(),
        };
        Some(RawInterface {
            index,
            span: self.span(object.range),
            at: Known::default(),
            name,
            instance: self.text(object, path, "instance", NAME_CHARS),
            kind: kind.unwrap_or(Kind::Vm),
            role: self.word(object, path, "role", ROLES).map_or(Role::Guest, |role| role.value),
            hook: self.word(object, path, "hook", HOOKS).map_or(HookChoice::Auto, |hook| hook.value),
            mac,
            trunk: self.boolean(object, path, "trunk").is_some_and(|trunk| trunk.value),
            fast_path: self.boolean(object, path, "fast_path").is_some_and(|fast_path| fast_path.value),
            addresses,
            allowed_addresses,
            groups: groups.unwrap_or_default(),
            timeouts,
            enforcement: self.enforcement(object, path),
        })
    }

    /// Of an interface or a group.
    pub(super) fn enforcement(&mut self, object: &Object<'_>, path: &Path<'_>) -> Enforcement {
        self.word(object, path, "enforcement", ENFORCEMENTS).map_or(Enforcement::Enforce, |word| word.value)
    }

    /// K2.
    fn no_group(&mut self, object: &Object<'_>, path: &Path<'_>, name: Option<&Spanned<String>>) {
        let who =
            name.map_or("this interface".to_owned(), |name| format!("interface {}", quote(&name.value)));
        let at = field(object, "security_groups")
            .map_or_else(|| Range { start: object.range.start, end: object.range.start + 1 }, Ranged::range);
        let fault = Fault::error(format!("{who} has no security group"))
            .expected("at least one: its groups are all that says what it may send and receive")
            .suggest("write [\"default\"]; only kind \"bare_metal\" may have none");
        self.report(at, &path.field("security_groups"), fault);
    }

    pub(super) fn peer(&mut self, value: &Value<'_>, path: &Path<'_>, index: usize) -> Option<RawPeer> {
        let object = self.object(value, path, fields::PEER)?;
        let address = self.required(object, path, "address").and_then(|value| {
            let path = path.field("address");
            let text = self.string(value, &path, "an address")?;
            let address = self.check(value, &path, values::address(text))?;
            Some(self.spanned(address, value))
        });
        self.required(object, path, "security_groups");
        let groups = self.group_names(object, path).unwrap_or_default();
        if let Some(Value::Array(array)) = field(object, "security_groups")
            && array.elements.is_empty()
        {
            let fault = Fault::error("this peer is a member of no group").expected("at least one group name");
            self.report(array.range, &path.field("security_groups"), fault);
        }
        Some(RawPeer { index, span: self.span(object.range), at: Known::default(), address, groups })
    }

    /// Names of groups, each once. `None` where the list itself is faulty; absent is empty.
    fn group_names(&mut self, object: &Object<'_>, path: &Path<'_>) -> Option<Vec<Spanned<String>>> {
        if field(object, "security_groups").is_none() {
            return Some(Vec::new());
        }
        let values = self.list(object, path, "security_groups", "group names")?;
        let path = path.field("security_groups");
        let mut names: Vec<Spanned<String>> = Vec::new();
        let mut seen = HashMap::new();
        let mut whole = true;
        for (index, value) in values.iter().enumerate() {
            let path = path.index(index);
            let Some(name) = self.string(value, &path, "a group name") else {
                whole = false;
                continue;
            };
            let name = self.spanned(name.to_owned(), value);
            if let Some(&first) = seen.get(&name.value) {
                let fault = Fault::error(format!("group {} is listed twice", quote(&name.value)))
                    .related(first, "first listed here");
                self.report(value.range(), &path, fault);
                continue;
            }
            seen.insert(name.value.clone(), name.span);
            names.push(name);
        }
        (whole || !names.is_empty()).then_some(names)
    }

    fn addresses(
        &mut self,
        object: &Object<'_>,
        path: &Path<'_>,
        name: &str,
        seen: &mut HashMap<IpAddr, Span>,
    ) -> Vec<Spanned<IpAddr>> {
        let values = self.list(object, path, name, "addresses").unwrap_or_default();
        let path = path.field(name);
        let mut addresses = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let path = path.index(index);
            let Some(text) = self.string(value, &path, "an address") else { continue };
            let Some(address) = self.check(value, &path, values::address(text)) else { continue };
            let address = self.spanned(address, value);
            if let Some(&first) = seen.get(&address.value) {
                let fault = Fault::error(format!("address {} is listed twice", address.value))
                    .related(first, "first listed here");
                self.report(value.range(), &path, fault);
                continue;
            }
            seen.insert(address.value, address.span);
            addresses.push(address);
        }
        addresses
    }
}
