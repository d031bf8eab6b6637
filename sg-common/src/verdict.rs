//! Verdicts and the one list of reasons behind them: the kernel counts by it, and metrics, command line and
//! documentation name packets by it (SPEC D24).

/// What happens to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Drop,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $action:ident, $name:literal
        $(, $remedy:literal)?;)*) => {
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

            /// What to do about it, in a sentence; `None` for reasons to pass.
            pub const fn remedy(self) -> Option<&'static str> {
                let remedy = match self { $(Self::$variant => concat!("" $(, $remedy)?),)* };
                if remedy.is_empty() { None } else { Some(remedy) }
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
    /// DHCP between a client and its server passes by itself.
    Dhcp = 5, Allow, "dhcp";
    /// An ICMP error about an existing connection.
    Related = 6, Allow, "related";
    /// A piece of a datagram whose first fragment passed.
    Fragment = 7, Allow, "fragment";
    /// A piece of a datagram whose first fragment has yet to come; without that one it is of no use to anybody.
    EarlyFragment = 8, Allow, "early_fragment";
    /// The EtherType is one that the settings let pass.
    EtherTypeListed = 9, Allow, "ether_type_listed";

    /// No rule allows the packet.
    NoRule = 32, Drop, "no_rule",
        "Add a rule to a security group of the interface; `sgctl explain` prints it.";
    /// The packet is shorter than its headers say, or contradicts itself.
    Malformed = 33, Drop, "malformed",
        "Look at the sender: capture the frame (`tcpdump -xx`) and ask about it with `sgctl explain --hex -`.";
    /// The EtherType is neither IP nor ARP, and the settings do not list it.
    EtherType = 34, Drop, "ether_type",
        "If the guest needs it, list the EtherType in settings.guest_baseline.ether_types.";
    /// The frame carries a VLAN tag.
    Vlan = 35, Drop, "vlan",
        "Have the guest send without a tag, or set \"trunk\": true on its interface; settings.guest_baseline.vlan switches the guard off.";
    /// The first fragment does not hold the transport header, or a later one would overwrite it.
    TinyFragment = 36, Drop, "tiny_fragment",
        "Look at the sender, as no ordinary one cuts so small; there is no setting.";
    /// The chain of IPv6 extension headers is too long or has an unknown member.
    ExtensionHeaders = 37, Drop, "extension_headers",
        "Have the sender leave the headers out: six are looked through, and none for mobility, HIP, shim6 or experiments; there is no setting.";
    /// The TCP flags make no sense together.
    TcpFlags = 38, Drop, "tcp_flags",
        "Look for a port scanner at the sender, as no TCP sends such flags; there is no setting.";
    /// The TCP packet does not fit the state of its connection.
    TcpState = 39, Drop, "tcp_state",
        "Have the client connect anew; if it happens again, look whether the other direction takes a way past this filter.";
    /// The TCP packet is in mid-stream of no known connection, and strict_tcp is on.
    StrictTcp = 40, Drop, "strict_tcp",
        "Have the client connect anew, or switch settings.strict_tcp off.";
    /// The connection table is full.
    TableFull = 41, Drop, "table_full",
        "See who has so many with `sgctl flows`, end them, or start sgd with more --live-flows or --half-open-flows.";
    /// The filter is attached to an interface that it has no policy for.
    UnknownInterface = 42, Drop, "unknown_interface",
        "Name the interface in a policy; `sgctl status` says why it has none.";
    /// The fragment overlaps one that has passed.
    FragmentOverlap = 43, Drop, "fragment_overlap",
        "Look at the sender; if it sends many fragmented datagrams, have it send smaller ones, as identifications come round.";
    /// The first fragment of the datagram was dropped.
    FragmentOfDropped = 44, Drop, "fragment_of_dropped",
        "Ask why the first was dropped: `sgctl explain --fragment first`.";
    /// The datagram comes in too many pieces out of order, or from where nothing is allowed before its first fragment.
    FragmentLimit = 45, Drop, "fragment_limit",
        "Allow the datagram's protocol and remote by a rule; if one does, have the sender send datagrams that need no fragments.";
    /// The TCP reset is outside of its connection's window.
    TcpWindow = 46, Drop, "tcp_window",
        "Nothing if it was guessed; otherwise end the connection with `sgctl flows revoke --all` and its filters.";
    /// ICMP redirects never pass.
    Redirect = 47, Drop, "redirect",
        "Correct the routes of whoever is redirected; settings.guest_baseline.redirects switches the guard off.";
    /// The guest has used a hardware address that is not its own.
    SourceMac = 48, Drop, "source_mac",
        "Have the guest use the interface's \"mac\", or correct that in the policy; settings.guest_baseline.source_mac switches the guard off.";
    /// The guest has used an IP address that is not its own.
    SourceAddress = 49, Drop, "source_address",
        "Have the guest use its own addresses, or list this one in the interface's \"allowed_addresses\"; settings.guest_baseline.source_address switches the guard off.";
    /// The guest has announced an address that is not its own by ARP.
    ArpSpoof = 50, Drop, "arp_spoof",
        "Have the guest announce its own addresses only, or list this one in the interface's \"allowed_addresses\"; settings.guest_baseline.arp switches the guard off.";
    /// The neighbour discovery message announces another's address, came from beyond the link, or is broken.
    NeighborSpoof = 51, Drop, "neighbor_spoof",
        "Have the guest announce its own addresses only, or list this one in the interface's \"allowed_addresses\"; settings.guest_baseline.neighbor_discovery switches the guard off.";
    /// The guest plays DHCP server.
    DhcpServer = 52, Drop, "dhcp_server",
        "Stop the guest's DHCP server; if it is meant to be one, settings.guest_baseline.dhcp_server switches the guard off.";
    /// The router advertisement is the guest's own, or of a router that is not configured.
    RouterAdvertisement = 53, Drop, "router_advertisement",
        "List the router in settings.guest_baseline.routers; if it is the guest that is meant to be one, settings.guest_baseline.router_advertisements switches the guard off.";
    /// The packet says which way it wants to be routed.
    SourceRoute = 54, Drop, "source_route",
        "Have the sender leave the route out; settings.guest_baseline.source_routing switches the guard off.";
    /// The packet asks whoever sends it on for a checksum in the middle of what the filter has judged.
    ChecksumPlace = 55, Drop, "checksum_place",
        "Look at the guest's network driver; have it write checksums itself (`ethtool -K DEVICE tx off`).";
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
///
/// One word, so that it is returned in a register: reason, [`AdmittedBy`], state and policy. A struct in memory would be
/// copied with its padding, which may have held a pointer; the verifier refuses that.
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "a verdict that nobody acts on is a packet that passes"]
pub struct Verdict(u64);

impl Verdict {
    #[inline(always)]
    pub const fn new(reason: Reason, admitted_by: AdmittedBy, state: u8, policy: u32) -> Self {
        Self(reason as u64 | ((admitted_by as u64) << 8) | ((state as u64) << 16) | ((policy as u64) << 32))
    }

    /// A verdict that neither rules nor flows had a part in.
    #[inline(always)]
    pub const fn of(reason: Reason) -> Self {
        Self::new(reason, AdmittedBy::Nothing, 0, 0)
    }

    /// As [`Self::of`], from the reason's number.
    #[inline(always)]
    pub(crate) const fn of_number(reason: u8) -> Self {
        Self(reason as u64)
    }

    /// All of it: the reason's number in the lowest byte, then [`AdmittedBy`], the state, and in the upper half the policy.
    #[inline(always)]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The same without a flow, for another reason.
    #[inline(always)]
    pub(crate) const fn instead(self, reason: Reason) -> Self {
        Self(self.0 & !0x00ff_00ff | reason as u64)
    }

    /// From [`Self::word`].
    #[inline(always)]
    pub(crate) const fn of_word(word: u64) -> Self {
        Self(word)
    }

    /// The number of the [`Reason`].
    #[inline(always)]
    pub const fn reason_number(self) -> u32 {
        (self.0 & 0xff) as u32
    }

    pub const fn reason(self) -> Option<Reason> {
        Reason::from_number(self.reason_number())
    }

    /// `AdmittedBy as u32`.
    #[inline(always)]
    pub const fn admitted_by(self) -> u32 {
        (self.0 >> 8 & 0xff) as u32
    }

    /// [`crate::conntrack::State`] after the packet, 0 without a flow.
    #[inline(always)]
    pub const fn state(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// The policy that decided, or that once admitted the flow.
    #[inline(always)]
    pub const fn policy(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Reasons to drop are numbered from [`FIRST_DROP`] on.
    #[inline(always)]
    pub const fn action(self) -> Action {
        if self.reason_number() < FIRST_DROP { Action::Allow } else { Action::Drop }
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Verdict")
            .field("reason", &self.reason())
            .field("admitted_by", &self.admitted_by())
            .field("state", &self.state())
            .field("policy", &self.policy())
            .finish()
    }
}

/// The lowest number of a reason to drop.
pub const FIRST_DROP: u32 = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{REASON_SLOTS, WOULD_DROP};

    #[test]
    fn numbers_name_their_reason_and_fit_the_counters() {
        for &reason in Reason::EVERY {
            assert_eq!(Reason::from_number(reason as u32), Some(reason));
            assert!((reason as u32) < FIRST_DROP + WOULD_DROP, "the counters of audit begin there");
            assert!(reason.text().ends_with('.'), "{}", reason.name());
            assert_eq!(Verdict::of(reason).action(), reason.action(), "{}", reason.name());
            // Whoever is told that a packet was dropped is told what to do.
            let told = reason.remedy().is_some_and(|remedy| remedy.ends_with('.'));
            assert_eq!(told, reason.action() == Action::Drop, "{}", reason.name());
        }
        assert_eq!(Reason::from_number(63), None);
        assert_eq!(REASON_SLOTS, FIRST_DROP + 2 * WOULD_DROP);
    }

    #[test]
    fn verdicts_keep_what_they_are_made_of() {
        for (admitted_by, number) in [(AdmittedBy::Nothing, 0), (AdmittedBy::Cidr, 1), (AdmittedBy::Group, 2)]
        {
            for state in [0, 1, 12, 0xff] {
                for policy in [0, 1, u32::MAX] {
                    let verdict = Verdict::new(Reason::SourceRoute, admitted_by, state, policy);
                    assert_eq!(verdict.reason(), Some(Reason::SourceRoute));
                    let rest = (verdict.admitted_by(), verdict.state(), verdict.policy());
                    assert_eq!(rest, (number, state, policy));
                }
            }
        }
    }
}
