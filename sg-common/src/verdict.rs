//! Verdicts and the one list of reasons behind them: the kernel counts by it, and metrics, command line and
//! documentation name packets by it (SPEC D24).

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Drop,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $action:ident, $name:literal;)*) => {
        /// Why a packet passed or was dropped. Numbers are stable: they index `COUNTERS`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $variant = $number,)* }

        impl Reason {
            pub const EVERY: &[Self] = &[$(Self::$variant,)*];

            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$variant => Action::$action,)* }
            }

            /// The name in metrics, JSON and tables.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence for people.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)* }
            }

            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// The packet belongs to an existing connection.
    Established = 0, Allow, "established";
    /// A rule allows the packet; it starts a connection.
    NewFlow = 1, Allow, "new_flow";
    /// A rule allows the packet; it is of a kind that starts no connection.
    RuleOnly = 2, Allow, "rule_only";
    /// ARP always passes.
    Arp = 3, Allow, "arp";
    /// IPv6 neighbour discovery, router solicitation and multicast listener reports always pass.
    NeighborDiscovery = 4, Allow, "neighbor_discovery";
    /// DHCP between a client and its server always passes.
    Dhcp = 5, Allow, "dhcp";

    /// No rule allows the packet.
    NoRule = 32, Drop, "no_rule";
    /// The packet is shorter than its headers say, or contradicts itself.
    Malformed = 33, Drop, "malformed";
    /// The EtherType is none that the filter knows.
    EtherType = 34, Drop, "ether_type";
    /// The frame carries a VLAN tag.
    Vlan = 35, Drop, "vlan";
    /// The packet is a fragment.
    Fragment = 36, Drop, "fragment";
    /// The chain of IPv6 extension headers is too long or has an unknown member.
    ExtensionHeaders = 37, Drop, "extension_headers";
    /// The TCP flags make no sense together.
    TcpFlags = 38, Drop, "tcp_flags";
    /// The TCP packet does not fit the state of its connection.
    TcpState = 39, Drop, "tcp_state";
    /// The TCP packet is in mid-stream of no known connection, and strict_tcp is on.
    StrictTcp = 40, Drop, "strict_tcp";
    /// The connection table is full.
    TableFull = 41, Drop, "table_full";
    /// The filter is attached to an interface that it has no policy for.
    UnknownInterface = 42, Drop, "unknown_interface";
}

/// Which kind of rule admitted a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AdmittedBy {
    Nothing = 0,
    Cidr = 1,
    Group = 2,
}

/// The answer for one packet. Throwing it away would let the packet through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a verdict that nobody acts on is a packet that passes"]
pub struct Verdict {
    pub reason: Reason,
    pub admitted_by: AdmittedBy,
    /// [`crate::conntrack::State`] after the packet, 0 without a flow.
    pub state: u8,
    /// The policy that decided, or that once admitted the flow.
    pub policy: u32,
}

impl Verdict {
    /// A verdict that neither rules nor flows had a part in.
    #[inline(always)]
    pub const fn of(reason: Reason) -> Self {
        Self { reason, admitted_by: AdmittedBy::Nothing, state: 0, policy: 0 }
    }

    #[inline(always)]
    pub const fn action(self) -> Action {
        self.reason.action()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_their_reason_and_fit_the_counters() {
        for &reason in Reason::EVERY {
            assert_eq!(Reason::from_number(reason as u32), Some(reason));
            assert!((reason as u32) < crate::abi::REASON_SLOTS);
            assert!(reason.text().ends_with('.'), "{}", reason.name());
        }
        assert_eq!(Reason::from_number(63), None);
    }
}
