//! The guest baseline (SPEC section 6).

use std::fmt::Display;
use std::hash::Hash;

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::Ranged;

use super::{Path, Walk, field};
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::fields;
use crate::policy::model::{EtherTypes, LinkLocal};
use crate::policy::names::did_you_mean;
use crate::policy::raw::RawGuestBaseline;
use crate::policy::source::Spanned;
use crate::policy::values;

const LINK_LOCAL: &[(&str, LinkLocal)] = &[("derived", LinkLocal::Derived), ("any", LinkLocal::Any)];
const ANY: &str = "any";
/// The kernel compares each frame with all of them.
const MOST_ETHER_TYPES: usize = 8;

impl Walk<'_, '_> {
    pub(super) fn guest_baseline(&mut self, object: &Object<'_>, path: &Path<'_>) -> RawGuestBaseline {
        let mut baseline = RawGuestBaseline::default();
        let Some(value) = field(object, "guest_baseline") else { return baseline };
        let path = path.field("guest_baseline");
        let Some(object) = self.object(value, &path, fields::GUEST_BASELINE) else { return baseline };
        for (slot, name) in baseline.guards.iter_mut().zip(fields::GUEST_BASELINE) {
            *slot = self.boolean(object, &path, name);
        }
        baseline.ether_types = self.ether_types(object, &path);
        baseline.link_local = self.word(object, &path, "link_local", LINK_LOCAL);
        baseline.routers = self.addresses_in(object, &path, "routers", "router", values::router);
        baseline.dhcp_servers =
            self.addresses_in(object, &path, "dhcp_servers", "DHCP server", values::address);
        baseline
    }

    fn ether_types(&mut self, object: &Object<'_>, path: &Path<'_>) -> Option<Spanned<EtherTypes>> {
        const EXPECTED: &str = "a list of EtherTypes such as [\"0x88cc\"], or \"any\"";
        let value = field(object, "ether_types")?;
        let path = path.field("ether_types");
        let listed = match value {
            Value::Array(array) => &array.elements,
            Value::StringLit(text) if text.value == ANY => return Some(self.spanned(EtherTypes::Any, value)),
            Value::StringLit(text) => {
                let meant = match values::ether_type(&text.value) {
                    Ok(_) => Some(format!("write [\"{}\"]", text.value)),
                    Err(_) => did_you_mean(&text.value, [ANY]),
                };
                let fault = Fault::error(format!("unknown value {}", quote(&text.value)));
                self.report(value.range(), &path, fault.expected(EXPECTED).suggest_opt(meant));
                return None;
            }
            _ => {
                self.wrong_type(value, &path, EXPECTED);
                return None;
            }
        };
        if let Some(over) = listed.get(MOST_ETHER_TYPES) {
            let fault = Fault::error(format!("{} EtherTypes are too many", listed.len()))
                .expected(format!("at most {MOST_ETHER_TYPES}, or \"any\""));
            self.report(over.range(), &path, fault);
        }
        let name = |ether_type: &u16| format!("EtherType {ether_type:#06x}");
        let listed = self.each_once(listed, &path, Self::ether_type, name);
        Some(self.spanned(EtherTypes::Listed(listed), value))
    }

    fn ether_type(&mut self, value: &Value<'_>, path: &Path<'_>) -> Option<u16> {
        if let Value::NumberLit(_) = value {
            let number = self.whole_number(value, path, values::ETHER_TYPES)?;
            return self.check(value, path, values::ether_type_number(number as u16));
        }
        let text = self.string(value, path, values::ETHER_TYPE_EXPECTED)?;
        self.check(value, path, values::ether_type(text))
    }

    /// A list of hosts that guests deal with, each once.
    fn addresses_in<A: Clone + Display + Eq + Hash>(
        &mut self,
        object: &Object<'_>,
        path: &Path<'_>,
        name: &str,
        what: &str,
        parse: fn(&str) -> Result<A, Fault>,
    ) -> Option<Spanned<Vec<A>>> {
        let value = field(object, name)?;
        let values = self.list(object, path, name, "addresses")?;
        let one = |walk: &mut Self, value: &Value<'_>, path: &Path<'_>| {
            let text = walk.string(value, path, "an address")?;
            walk.check(value, path, parse(text))
        };
        let addresses = self.each_once(values, &path.field(name), one, |address| format!("{what} {address}"));
        Some(self.spanned(addresses, value))
    }
}
