//! One file after the walk: values parsed, names not yet resolved, every part with its place.
//!
//! A part that was faulty is `None` (the fault is reported already), so that its neighbours are still checked.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::IpNet;

use super::chunks::Chunks;
use super::model::{
    Enforcement, EtherTypes, HookChoice, Kind, LinkLocal, Match, Metadata, OnRuleChange, Protocol, Role,
};
use super::source::{Span, Spanned, Within};

#[derive(Debug, Clone)]
pub(crate) struct RawFile {
    pub project: Option<String>,
    pub vpc: Option<String>,
    pub ipv6: Option<Spanned<bool>>,
    pub settings: Arc<RawSettings>,
    pub settings_at: Option<Span>,
    pub groups: List<RawGroup>,
    pub interfaces: List<RawInterface>,
    pub peers: List<RawPeer>,
}

/// The objects of one of the lists at the top of a file, in order. A text that follows another one shares what has not
/// changed: see `rewalk`.
#[derive(Debug, Clone)]
pub(crate) struct List<T> {
    /// With its brackets; `None` if there is no list.
    pub span: Option<Span>,
    pub items: Chunks<Arc<T>>,
}

impl<'l, T> IntoIterator for &'l List<T> {
    type Item = &'l T;
    type IntoIter = Box<dyn Iterator<Item = &'l T> + 'l>;

    fn into_iter(self) -> Self::IntoIter {
        Box::new(self.items.iter().map(Arc::as_ref))
    }
}

/// Line and column of an object, or the [`Offset`](super::model::Offset) of a rule, once somebody has counted them: in one word, as
/// there may be very many of them. 0 is not yet.
#[derive(Debug, Default)]
pub(crate) struct Known(AtomicU64);

impl Known {
    pub fn get(&self) -> Option<(u32, u32)> {
        let place = self.0.load(Ordering::Relaxed);
        (place != 0).then_some(((place >> 32) as u32, place as u32))
    }

    pub fn set(&self, line: u32, column: u32) {
        self.0.store(u64::from(line) << 32 | u64::from(column), Ordering::Relaxed);
    }
}

impl Clone for Known {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RawGroup {
    /// Position in `security_groups`.
    pub index: usize,
    pub span: Span,
    pub at: Known,
    /// As written, even when it breaks K17, so that references to it do not count as dangling too.
    pub name: Option<Spanned<String>>,
    pub description: String,
    pub include_allowed_addresses: bool,
    pub enforcement: Enforcement,
    pub inbound: Option<RawRules>,
    pub outbound: Option<RawRules>,
}

impl RawGroup {
    /// The list of one direction, if it is written.
    pub fn rules(&self, inbound: bool) -> Option<&RawRules> {
        if inbound { self.inbound.as_ref() } else { self.outbound.as_ref() }
    }
}

/// The rules of one direction. All places in it are told from the start of the group, so that one that follows in another place
/// shares them.
pub(crate) type RawRules = Arc<Vec<RawRule>>;

/// Its places are told from the start of its group; those of a failsafe rule, from the start of the file.
#[derive(Debug, Clone)]
pub(crate) struct RawRule {
    pub span: Within,
    pub at: Known,
    pub protocol: Option<Protocol>,
    pub remote: Option<RawRemote>,
    pub matches: Option<Match>,
    pub description: String,
}

#[derive(Debug, Clone)]
pub(crate) enum RawRemote {
    Cidr(IpNet),
    /// Without the `@`; the place is that of the whole string.
    Group {
        name: String,
        at: Within,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct RawInterface {
    pub index: usize,
    pub span: Span,
    pub at: Known,
    pub name: Option<Spanned<String>>,
    pub instance: String,
    pub kind: Kind,
    pub role: Role,
    pub hook: HookChoice,
    pub mac: Option<[u8; 6]>,
    pub trunk: bool,
    pub fast_path: bool,
    pub addresses: Vec<Spanned<IpAddr>>,
    pub allowed_addresses: Vec<Spanned<IpAddr>>,
    pub groups: Vec<Spanned<String>>,
    pub timeouts: RawTimeouts,
    pub enforcement: Enforcement,
}

#[derive(Debug, Clone)]
pub(crate) struct RawPeer {
    pub index: usize,
    pub span: Span,
    pub at: Known,
    pub address: Option<Spanned<IpAddr>>,
    pub groups: Vec<Spanned<String>>,
}

/// What one file says about the daemon as a whole; the files are merged field by field.
#[derive(Debug, Default)]
pub(crate) struct RawSettings {
    pub metadata: Option<Spanned<Metadata>>,
    pub on_rule_change: Option<Spanned<OnRuleChange>>,
    pub strict_tcp: Option<Spanned<bool>>,
    /// In the order of [`super::fields::QUOTAS`].
    pub quotas: [Option<Spanned<u32>>; 3],
    pub timeouts: RawTimeouts,
    pub managed: Option<Spanned<Vec<String>>>,
    pub failsafe: Option<Spanned<RawFailsafe>>,
    pub guest_baseline: RawGuestBaseline,
}

/// In the order of [`super::fields::TIMEOUTS`].
pub(crate) type RawTimeouts = [Option<Spanned<u32>>; 12];

#[derive(Debug)]
pub(crate) struct RawFailsafe {
    pub inbound: Vec<RawRule>,
    pub outbound: Vec<RawRule>,
}

#[derive(Debug, Default)]
pub(crate) struct RawGuestBaseline {
    /// In the order of [`super::fields::GUEST_BASELINE`], which begins with them.
    pub guards: [Option<Spanned<bool>>; 9],
    pub ether_types: Option<Spanned<EtherTypes>>,
    pub link_local: Option<Spanned<LinkLocal>>,
    pub routers: Option<Spanned<Vec<Ipv6Addr>>>,
    pub dhcp_servers: Option<Spanned<Vec<IpAddr>>>,
}
