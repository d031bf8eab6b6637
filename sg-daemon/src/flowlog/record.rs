//! A record, and how it is written (docs/flow-log.md).

use std::fmt::Write as _;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::types::Direction;

/// How records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// An object a line.
    Json,
    /// The default format of VPC flow logs, version 2, and six fields more.
    AwsV2,
}

/// The version of the format that the first fourteen fields are of.
pub const VERSION: u32 = 2;

/// One line of the log: what went one way under one 5-tuple, within one interval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// 2.
    pub version: u32,
    /// The project that the interface belongs to; absent for a device that no policy names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The device's name.
    pub interface_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srcaddr: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dstaddr: Option<IpAddr>,
    /// 0 for protocols without ports, and for pieces of a datagram whose first piece has not come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srcport: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dstport: Option<u16>,
    /// The IP protocol's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Of IP packets with their headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds of the Unix epoch: the first packet.
    pub start: u64,
    /// The last packet.
    pub end: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    pub log_status: LogStatus,
    /// Which way the packets went, seen from the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// The instance's name in the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// The rules in force, when the record was written, that allow the flow's first packet: `GROUP/inbound[0]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<String>,
    /// Why packets were dropped; with `ACCEPT`, why they would have been if the interface were not in audit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// TCP: all flags of the packets, as bits of the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<u8>,
    /// With `SKIPDATA`: how many packets or records of the interface the log does not tell of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    Accept,
    Reject,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum LogStatus {
    Ok,
    /// Nothing came and went in the interval.
    NoData,
    /// Some of what came and went is not in the log.
    SkipData,
}

impl LogStatus {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::NoData => "NODATA",
            Self::SkipData => "SKIPDATA",
        }
    }
}

impl Record {
    /// A record that tells of an interface and not of packets.
    pub fn of_interval(
        interface: &str,
        account: Option<&str>,
        (start, end): (u64, u64),
        status: LogStatus,
    ) -> Self {
        Self {
            version: VERSION,
            account_id: account.map(str::to_owned),
            interface_id: interface.to_owned(),
            srcaddr: None,
            dstaddr: None,
            srcport: None,
            dstport: None,
            protocol: None,
            packets: None,
            bytes: None,
            start,
            end,
            action: None,
            log_status: status,
            direction: None,
            instance: None,
            rules: Vec::new(),
            reason: None,
            tcp_flags: None,
            skipped: None,
        }
    }

    /// The line, without its end.
    pub fn line(&self, format: Format) -> String {
        match format {
            // A structure of numbers and texts can always be written.
            Format::Json => serde_json::to_string(self).unwrap_or_default(),
            Format::AwsV2 => self.aws(),
        }
    }

    fn aws(&self) -> String {
        let mut line = self.version.to_string();
        let action = self.action.map(|action| match action {
            Action::Accept => "ACCEPT",
            Action::Reject => "REJECT",
        });
        let direction = self.direction.map(|direction| match direction {
            Direction::Inbound => "ingress",
            Direction::Outbound => "egress",
        });
        let rules = (!self.rules.is_empty()).then(|| self.rules.join(","));
        for field in [
            self.account_id.as_deref().map(word),
            Some(word(&self.interface_id)),
            shown(self.srcaddr),
            shown(self.dstaddr),
            shown(self.srcport),
            shown(self.dstport),
            shown(self.protocol),
            shown(self.packets),
            shown(self.bytes),
            shown(Some(self.start)),
            shown(Some(self.end)),
            shown(action),
            shown(Some(self.log_status.name())),
            shown(direction),
            self.instance.as_deref().map(word),
            rules.as_deref().map(word),
            self.reason.as_deref().map(word),
            shown(self.tcp_flags),
            shown(self.skipped),
        ] {
            line.push(' ');
            line.push_str(field.as_deref().filter(|field| !field.is_empty()).unwrap_or("-"));
        }
        line
    }
}

fn shown<T: ToString>(value: Option<T>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// A name without what would end its field or its line, or be taken for no name: those bytes as `%XX`.
fn word(name: &str) -> String {
    let mut word = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            word.push(char::from(byte));
        } else {
            let _ = write!(word, "%{byte:02X}");
        }
    }
    if word == "-" { "%2D".to_owned() } else { word }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            srcaddr: Some([10, 0, 0, 5].into()),
            dstaddr: Some([203, 0, 113, 10].into()),
            srcport: Some(40_000),
            dstport: Some(443),
            protocol: Some(6),
            packets: Some(7),
            bytes: Some(1234),
            action: Some(Action::Accept),
            direction: Some(Direction::Outbound),
            instance: Some("web 1".to_owned()),
            rules: vec!["web/outbound[0]".to_owned(), "default/outbound[standard]".to_owned()],
            tcp_flags: Some(0x1b),
            ..Record::of_interval("tap0", Some("shop"), (1_431_280_876, 1_431_280_934), LogStatus::Ok)
        }
    }

    #[test]
    fn lines_are_as_the_page_says() {
        assert_eq!(
            record().line(Format::AwsV2),
            "2 shop tap0 10.0.0.5 203.0.113.10 40000 443 6 7 1234 1431280876 1431280934 ACCEPT OK egress web%201 \
             web/outbound[0],default/outbound[standard] - 27 -"
        );
        assert_eq!(
            record().line(Format::Json),
            r#"{"version":2,"account_id":"shop","interface_id":"tap0","srcaddr":"10.0.0.5","dstaddr":"203.0.113.10","srcport":40000,"dstport":443,"protocol":6,"packets":7,"bytes":1234,"start":1431280876,"end":1431280934,"action":"ACCEPT","log_status":"OK","direction":"outbound","instance":"web 1","rules":["web/outbound[0]","default/outbound[standard]"],"tcp_flags":27}"#
        );
        let silent = Record::of_interval("tap0", None, (60, 120), LogStatus::NoData);
        assert_eq!(silent.line(Format::AwsV2), "2 - tap0 - - - - - - - 60 120 - NODATA - - - - - -");
        let skipped = Record {
            skipped: Some(12),
            ..Record::of_interval("tap0", Some("-"), (60, 120), LogStatus::SkipData)
        };
        assert_eq!(skipped.line(Format::AwsV2), "2 %2D tap0 - - - - - - - 60 120 - SKIPDATA - - - - - 12");
    }

    #[test]
    fn no_name_breaks_a_line() {
        for name in ["a b", "a\nb", "a\tb", "-", "", "%", "웹", "\u{a0}", "a\u{2028}b"] {
            let record =
                Record { instance: Some(name.to_owned()), interface_id: name.to_owned(), ..record() };
            let line = record.line(Format::AwsV2);
            assert_eq!(line.split(' ').count(), 20, "{line}");
            assert_eq!(line.lines().count(), 1);
            assert!(line.is_ascii(), "{line}");
            let json = record.line(Format::Json);
            assert_eq!(json.lines().count(), 1);
            assert_eq!(serde_json::from_str::<Record>(&json).unwrap(), record);
        }
    }

    #[test]
    fn the_schema_knows_every_field() {
        let schema = serde_json::to_value(schemars::schema_for!(Record)).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut value: serde_json::Value = serde_json::from_str(&record().line(Format::Json)).unwrap();
        assert!(validator.is_valid(&value));
        value["unknown"] = 1.into();
        assert!(!validator.is_valid(&value));
    }
}
