//! Rules (SPEC section 2).

use jsonc_parser::ast::{Object, Value};
use jsonc_parser::common::{Range, Ranged};

use super::{Path, Walk, field};
use crate::policy::diagnostic::{Fault, quote};
use crate::policy::fields;
use crate::policy::model::{Match, PortRange, Protocol};
use crate::policy::raw::{Known, RawRemote, RawRule};
use crate::policy::source::Spanned;
use crate::policy::values::{self, PROTOCOL_EXPECTED, RULE_DESCRIPTION_CHARS};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }

    /// What the remote is called (K13).
    pub fn remote(self) -> &'static str {
        match self {
            Self::Inbound => "source",
            Self::Outbound => "destination",
        }
    }

    fn opposite(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }

    fn fields(self) -> &'static [&'static str] {
        match self {
            Self::Inbound => fields::INBOUND_RULE,
            Self::Outbound => fields::OUTBOUND_RULE,
        }
    }
}

impl Walk<'_, '_> {
    /// A rule, whole or in parts; also what is no object counts as a rule that was written. Places are told from `start`.
    pub(super) fn rule(
        &mut self,
        value: &Value<'_>,
        path: &Path<'_>,
        direction: Direction,
        start: usize,
    ) -> RawRule {
        let mut rule = RawRule {
            span: self.span(value.range()).within(start),
            at: Known::default(),
            protocol: None,
            remote: None,
            matches: None,
            description: String::new(),
        };
        let handled = [direction.opposite().remote()];
        let Some(object) = self.object_except(value, path, direction.fields(), &handled) else { return rule };
        rule.protocol = self.required(object, path, "protocol").and_then(|value| self.protocol(value, path));
        rule.remote = self.remote(object, path, direction, start);
        rule.matches = self.matches(object, path, rule.protocol);
        rule.description = self.text(object, path, "description", RULE_DESCRIPTION_CHARS);
        rule
    }

    fn protocol(&mut self, value: &Value<'_>, path: &Path<'_>) -> Option<Protocol> {
        let path = path.field("protocol");
        if let Value::NumberLit(_) = value {
            let number = self.whole_number(value, &path, 0..=255)?;
            return self.check(value, &path, values::protocol_number(number));
        }
        let text = self.string(value, &path, PROTOCOL_EXPECTED)?;
        self.check(value, &path, values::protocol(text))
    }

    fn remote(
        &mut self,
        object: &Object<'_>,
        path: &Path<'_>,
        direction: Direction,
        start: usize,
    ) -> Option<RawRemote> {
        let (name, wrong) = (direction.remote(), direction.opposite().remote());
        let right = field(object, name);
        if let Some(property) = object.properties.iter().find(|property| property.name.as_str() == wrong) {
            let fault = Fault::error(format!(
                "\"{wrong}\" belongs to {} rules; an {} rule has a \"{name}\"",
                direction.opposite().name(),
                direction.name(),
            ))
            .suggest(if right.is_some() {
                format!("remove \"{wrong}\"")
            } else {
                format!("write \"{name}\"")
            });
            self.report(property.name.range(), &path.field(wrong), fault);
            right?;
        }
        let value = self.required(object, path, name)?;
        let path = path.field(name);
        let text = self.string(value, &path, "one network such as \"10.0.0.0/8\", or one \"@group\"")?;
        match text.strip_prefix('@') {
            Some(group) => {
                Some(RawRemote::Group { name: group.to_owned(), at: self.span(value.range()).within(start) })
            }
            None => self.check(value, &path, values::cidr(text)).map(RawRemote::Cidr),
        }
    }

    /// Ports for TCP and UDP, type and code for ICMP, nothing for the rest (K16).
    fn matches(&mut self, object: &Object<'_>, path: &Path<'_>, protocol: Option<Protocol>) -> Option<Match> {
        let port = match field(object, "port") {
            Some(value) => Some(self.port(value, path)?),
            None => None,
        };
        let kind = self.icmp_field(object, path, "icmp_type")?;
        let code = self.icmp_field(object, path, "icmp_code")?;
        let protocol = protocol?;
        let icmp = values::is_icmp(protocol);
        for (name, value) in [("icmp_type", &kind), ("icmp_code", &code)] {
            if let (Some(value), false) = (value, icmp) {
                let fault = Fault::error(format!("\"{name}\" on a rule that is not for ICMP"))
                    .expected("this field only with the protocol ICMP, icmpv6, 1 or 58");
                self.findings.report(value.span, &path.field(name), fault);
            }
        }
        if matches!(protocol, Protocol::Tcp | Protocol::Udp) {
            let Some(port) = port else {
                let name = if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
                let start = object.range.start;
                let fault = Fault::error(format!("missing field \"port\": a {name} rule needs one"))
                    .expected("a port (\"80\"), a range (\"1000-2000\") or \"ALL\"");
                self.report(Range { start, end: start + 1 }, &path.field("port"), fault);
                return None;
            };
            return Some(port.value.map_or(Match::Any, Match::Ports));
        }
        if let Some(Spanned { value: Some(_), span }) = port {
            let fault = Fault::error("a port on a rule that is neither TCP nor UDP")
                .expected("no \"port\", or \"ALL\"");
            self.findings.report(span, &path.field("port"), fault);
            return None;
        }
        match (kind, code) {
            (Some(kind), code) if icmp => {
                Some(Match::Icmp { kind: kind.value, code: code.map(|code| code.value) })
            }
            (None, Some(code)) if icmp => {
                let fault = Fault::error("\"icmp_code\" without \"icmp_type\"")
                    .expected("an \"icmp_type\" beside it: a code has a meaning only within its type");
                self.findings.report(code.span, &path.field("icmp_code"), fault);
                None
            }
            _ => Some(Match::Any),
        }
    }

    fn port(&mut self, value: &Value<'_>, path: &Path<'_>) -> Option<Spanned<Option<PortRange>>> {
        let path = path.field("port");
        let range = match value {
            Value::NumberLit(number) => values::decimal(number.value)
                .ok_or_else(|| Fault::error(format!("{} is not a port", quote(number.value))))
                .map_err(|fault| fault.expected("a port from 1 to 65535"))
                .and_then(values::port_number)
                .map(|port| Some(PortRange { min: port, max: port })),
            Value::StringLit(text) => values::ports(&text.value),
            _ => {
                self.wrong_type(value, &path, "a port (80 or \"80\"), a range (\"1000-2000\") or \"ALL\"");
                return None;
            }
        };
        let range = self.check(value, &path, range)?;
        Some(self.spanned(range, value))
    }

    /// Outer `None`: faulty. Inner `None`: absent.
    #[expect(
        clippy::option_option,
        reason = "absent and faulty differ, and nothing else is said about either"
    )]
    fn icmp_field(
        &mut self,
        object: &Object<'_>,
        path: &Path<'_>,
        name: &str,
    ) -> Option<Option<Spanned<u8>>> {
        let Some(value) = field(object, name) else { return Some(None) };
        let number = self.whole_number(value, &path.field(name), 0..=255)?;
        Some(Some(self.spanned(number as u8, value)))
    }
}
