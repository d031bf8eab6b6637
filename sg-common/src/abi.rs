//! The maps' keys and values. No `bool`, `Option` or Rust enum stands in map memory, padding is written out, and sizes
//! are asserted, because the kernel's copy outlives the daemon that wrote it.
//!
//! Addresses are in network byte order ([`Be32`]); ports, ids and times are in host order.

/// Part of the pin path. Raise it whenever a key, a value or a map's meaning changes.
pub const ABI_VERSION: u32 = 5;

/// Four bytes in network order, as they stand in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(transparent)]
pub struct Be32(pub u32);

impl Be32 {
    #[inline(always)]
    pub const fn from_host(value: u32) -> Self {
        Self(value.to_be())
    }

    #[inline(always)]
    pub const fn to_host(self) -> u32 {
        u32::from_be(self.0)
    }
}

/// Which way a packet goes, seen from the instance: SPEC K13's inbound and outbound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Direction {
    Inbound = 0,
    Outbound = 1,
}

/// The device's own hook, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    Ingress,
    Egress,
}

/// Declares a map type: plain bytes without padding, which user space may copy in and out of the kernel.
macro_rules! map_types {
    ($($(#[$doc:meta])* pub struct $name:ident: $size:literal { $($(#[$fdoc:meta])* pub $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size);
        // SAFETY: `repr(C)` over plain integers; zerocopy's `IntoBytes`, derived above, refuses padding.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    )*};
}

/// A compiled policy together with a direction: the first part of every key that asks for rules.
/// Policy 0 is never written: it is the closed policy that has no rule at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyDirection(pub u32);

impl PolicyDirection {
    #[inline(always)]
    pub const fn new(policy: u32, direction: Direction) -> Self {
        Self((policy << 1) | direction as u32)
    }

    pub const fn policy(self) -> u32 {
        self.0 >> 1
    }
}

/// Policy ids are 31 bits wide, see [`PolicyDirection`].
pub const MAX_POLICY_ID: u32 = u32::MAX >> 1;

map_types! {
    /// `CONTROL`, one entry, written by the daemon through a memory mapping.
    pub struct Control: 160 {
        /// The lowest bit says which half of each [`Interface`] and [`MemberSets`] is in force. One store of this word
        /// is the swap of the whole host from one policy to the next (SPEC D21).
        pub generation: u64,
        /// Added to the kernel's jiffies; zero except in tests, which turn the clock with it.
        pub clock_offset: u64,
        /// The next ids never used so far; they survive the daemon with the map.
        pub next_zone: u32,
        pub next_policy: u32,
        pub next_set: u32,
        pub next_vpc: u32,
        pub next_guard: u32,
        /// By direction, a bit each: whether somebody watches packets of devices that have no entry.
        pub watch_unknown: u32,
        /// 1: what passes is counted flow by flow, in `ACCOUNTS_*`; 0: it is not.
        pub account: u64,
        /// How many places of `WATCHERS` to look at: behind them nobody watches.
        pub watch_places: u64,
        /// How many buckets the tables of flows have, see [`crate::table`]. Set when the maps are made, as are the following.
        pub buckets_v4: u32,
        pub buckets_v6: u32,
        /// How many live flows there may be of each family.
        pub live_flows: u32,
        pub reserved: u32,
        /// What only this host knows, so that nobody can choose flows that meet in one bucket.
        pub secret: [u64; crate::table::SECRETS],
    }

    /// `INTERFACES`, an array that is probed as [`interface_slot`] says.
    pub struct Interface: 320 {
        /// 0: the entry is free.
        pub ifindex: u32,
        /// Conntrack zone, below [`MAX_ZONES`]: never used twice, so that a device that takes another's place cannot
        /// inherit its flows.
        pub zone: u32,
        /// The interface's row in `COUNTERS` and `SHARES`, from 1; row 0 counts packets of unknown interfaces.
        pub row: u32,
        /// How many live flows the interface may have (SPEC D16).
        pub live_limit: u32,
        /// How many half-open flows of one family it may have, and where its part of `RING_V4` and `RING_V6` begins.
        pub half_limit_v4: u32,
        pub half_base_v4: u32,
        pub half_limit_v6: u32,
        pub half_base_v6: u32,
        /// How many datagrams in pieces of one family are remembered of it, and where its part of `FRAG_RING_*` begins.
        pub datagram_limit: u32,
        pub datagram_base: u32,
        /// Which packets of the interface somebody watches: a bit for each [`packet_kind`]. The sum of what the entries of
        /// `WATCHERS` want of it.
        pub watched: [u32; KIND_WORDS],
        /// By the parity of [`Control::generation`].
        pub halves: [InterfaceHalf; 2],
    }

    /// What is in force on an interface in one generation.
    pub struct InterfaceHalf: 128 {
        pub policy: u32,
        /// Whose members `@group` means.
        pub vpc: u32,
        /// `FLAG_*`.
        pub flags: u32,
        /// A flow's expiry is written again only when it would move by more than this many jiffies.
        pub granularity: u32,
        /// Jiffies, by [`crate::conntrack::State`].
        pub timeouts: [u32; 12],
        /// The guest's hardware address; zero if it is not known.
        pub mac: [u8; 6],
        pub reserved: u16,
        /// The first part of the keys of `OWN_*` that hold all of the guest's addresses and its routers.
        pub guard: u32,
        /// One of the guest's addresses, looked at before `OWN_V4`; zero if it has none.
        pub own_v4: Be32,
        /// Likewise.
        pub own_v6: [Be32; 4],
        /// EtherTypes that pass beside IP and ARP, in host order; zero is none.
        pub ether_types: [u16; 8],
        /// How long the pieces of a datagram may take, in jiffies.
        pub patience_v4: u32,
        pub patience_v6: u32,
        pub reserved_too: [u32; 2],
    }

    /// Key of `OWN_V4`: an address that belongs to a guest; with [`GUARD_DHCP`], a DHCP server that it may talk to.
    pub struct OwnKeyV4: 8 {
        pub guard: u32,
        pub address: Be32,
    }

    /// Key of `OWN_V6`, likewise; with [`GUARD_ROUTER`], a router whose advertisements the guest may see.
    pub struct OwnKeyV6: 20 {
        pub guard: u32,
        pub address: [Be32; 4],
    }

    /// `SHARES`, by [`Interface::row`]: how much of the connection tables an interface uses. Programs add atomically.
    pub struct Share: 64 {
        /// Live flows.
        pub live: u64,
        /// How many half-open flows ever began; modulo the limit, the next place in the ring.
        pub half_v4: u64,
        pub half_v6: u64,
        /// Whose share it is; flows of a zone that had the row before do not count.
        pub zone: u32,
        /// How many accounts the interface may have in `ACCOUNTS_*`, of both families together. Written by the daemon.
        pub account_limit: u32,
        /// How many datagrams in pieces there ever were; modulo the limit, the next place in the ring.
        pub datagrams_v4: u64,
        pub datagrams_v6: u64,
        /// Accounts in `ACCOUNTS_*`: of what passes in the lower 32 bits, of what is dropped in the upper ones.
        pub accounts: u64,
        /// Packets that found no room for an account, since the daemon last took the number.
        pub unrecorded: u64,
    }

    /// Key of `FRAGMENTS_V4`: one datagram in pieces.
    pub struct FragmentKeyV4: 16 {
        /// `zone << 8 | protocol`.
        pub zone_protocol: u32,
        pub source: Be32,
        pub destination: Be32,
        /// `identification << 1 | direction`.
        pub id_direction: u32,
    }

    /// Key of `FRAGMENTS_V6`, likewise; the whole identification and the direction.
    pub struct FragmentKeyV6: 44 {
        pub zone_protocol: u32,
        pub source: [Be32; 4],
        pub destination: [Be32; 4],
        pub id: u32,
        pub direction: u32,
    }

    /// Value of `FRAGMENTS_*`: what became of the first fragment, and what has passed.
    pub struct Datagram: 56 {
        /// Jiffies.
        pub expires: u64,
        /// `DATAGRAM_*`.
        pub verdict: u32,
        /// The datagram's place in the ring of its family.
        pub place: u32,
        /// Where the piece ended that is followed by none, as in `ranges`; 0 if it has not passed yet.
        pub end: u32,
        /// [`FlowPorts`] of the first fragment, once it has passed, `local << 16 | remote`; zero before.
        pub ports: u32,
        /// What has passed, `start << 16 | end` in units of 8 bytes, the end excluded; 0 is none.
        pub ranges: [u32; 8],
    }

    /// Value of `CLASSES_*` and `PAIRS`: for one remote, what each protocol may reach.
    pub struct Row: 16 {
        pub tcp: PortSet,
        pub udp: PortSet,
        /// The packet's family's ICMP; the number looked up is `type << 8 | code`.
        pub icmp: PortSet,
        /// Every other protocol; the number looked up is the protocol's.
        pub other: PortSet,
    }

    /// Key of `CLASSES_V4` behind the prefix length, which counts the 32 bits of `policy_direction` too.
    pub struct ClassKeyV4: 8 {
        /// [`PolicyDirection`] in network order, as the trie compares from the highest bit on.
        pub policy_direction: Be32,
        pub address: Be32,
    }

    /// Key of `CLASSES_V6`, likewise.
    pub struct ClassKeyV6: 20 {
        pub policy_direction: Be32,
        pub address: [Be32; 4],
    }

    /// Key of `MEMBERS_V4`, of [`crate::exact`]'s.
    pub struct MemberKeyV4: 8 {
        /// From 1.
        pub vpc: u32,
        pub address: Be32,
    }

    /// Key of `MEMBERS_V6`, likewise.
    pub struct MemberKeyV6: 24 {
        pub vpc: u32,
        /// 0; in the table a part of the hash.
        pub print: u32,
        pub address: [Be32; 4],
    }

    /// The membership set of one address, by the parity of [`Control::generation`]; 0 is no group.
    pub struct MemberSets: 8 {
        pub sets: [u32; 2],
    }

    /// An entry of `MEMBERS_V4`.
    pub struct MemberV4: 16 {
        pub key: MemberKeyV4,
        pub sets: MemberSets,
    }

    /// An entry of `MEMBERS_V6`.
    pub struct MemberV6: 32 {
        pub key: MemberKeyV6,
        pub sets: MemberSets,
    }

    /// An element of `MEMBERS_V4`: a cache line.
    pub struct MembersV4: 64 {
        pub entries: [MemberV4; crate::exact::WAYS as usize],
    }

    /// An element of `MEMBERS_V6`: two cache lines.
    pub struct MembersV6: 128 {
        pub entries: [MemberV6; crate::exact::WAYS as usize],
    }

    /// Key of `PAIRS`, of [`crate::exact`]'s: what a policy's `@group` rules say of the members of one set.
    pub struct PairKey: 8 {
        /// [`PolicyDirection`].
        pub policy_direction: u32,
        /// `set << 1 | 1` for IPv6.
        pub set_family: u32,
    }

    /// An entry of `PAIRS`.
    pub struct Pair: 32 {
        pub key: PairKey,
        pub row: Row,
        pub reserved: u64,
    }

    /// An element of `PAIRS`: two cache lines.
    pub struct Pairs: 128 {
        pub entries: [Pair; crate::exact::WAYS as usize],
    }

    /// Key of a flow in `FLOWS_V4`. *Local* is the instance's side, so both directions of a flow have one key, and a forged
    /// packet that comes in with the instance's own address as its source has another.
    pub struct FlowKeyV4: 16 {
        /// `zone << 8 | protocol`.
        pub zone_protocol: u32,
        pub local: Be32,
        pub remote: Be32,
        pub ports: FlowPorts,
    }

    /// Key of a flow in `FLOWS_V6`, likewise.
    pub struct FlowKeyV6: 40 {
        pub zone_protocol: u32,
        pub local: [Be32; 4],
        pub remote: [Be32; 4],
        pub ports: FlowPorts,
    }

    /// TCP and UDP: the ports. ICMP: `local` is the identifier, `remote` is the request's type and who asks
    /// (see `conntrack`). Other protocols: zero (SPEC D10).
    pub struct FlowPorts: 4 {
        pub local: u16,
        pub remote: u16,
    }

    /// An element of `FLOWS_V4`: a cache line. One of [`crate::table`]'s slots; free if its key begins with 0.
    pub struct FlowSlotV4: 64 {
        pub key: FlowKeyV4,
        pub flow: Flow,
    }

    /// An element of `FLOWS_V6`, likewise: two cache lines, wherever it begins.
    pub struct FlowSlotV6: 96 {
        pub key: FlowKeyV6,
        pub flow: Flow,
        pub reserved: u64,
    }

    /// An element of `TAGS_*`: what is in as many slots of `FLOWS_*`, see [`crate::table`]. Aligned, as they are loaded two at a time.
    #[repr(align(8))]
    pub struct FlowTags: 64 {
        pub tags: [u32; crate::table::BUCKET as usize],
    }

    /// What is known of a flow. Written in place by concurrent CPUs, see [`crate::conntrack::FlowRef`].
    pub struct Flow: 48 {
        /// Jiffies; from then on the entry is as good as absent (SPEC D11).
        pub expires: u64,
        /// Jiffies, divided by [`CREATED_UNIT`].
        pub created: u32,
        /// Half-open: the flow's place in the ring of its family. Live: its interface's row in `SHARES`, with [`FLOW_LIVE`].
        pub place: u32,
        /// The policy that admitted the flow.
        pub policy: u32,
        /// [`crate::conntrack::State`].
        pub state: u8,
        /// `FLOW_*`.
        pub flags: u8,
        /// Window scales and what is known, see [`crate::tcp`].
        pub tcp: u16,
        /// Sequence tracking for TCP: three words of the side that began the flow, three of the other.
        pub sequence: [u32; 6],
    }

    /// `PORTS`, by [`Interface::row`]: the bridge whose port the interface is. Written by the daemon, [`Port::until`] last.
    pub struct Port: 32 {
        /// Jiffies, with the clock's offset: until then the interface's packets may go past the bridge; 0 is never.
        pub until: u64,
        /// [`port_station`] of the one station behind the port, and above it, from bit 48 on, the port's `PORT_*`; 0 if there is none, or
        /// more than one: then `STATIONS` knows them.
        pub station: u64,
        /// As [`Station::seen`], of that station.
        pub seen: u64,
        /// The bridge's ifindex.
        pub bridge: u32,
        /// Jiffies after which the bridge has to see a packet of a station again.
        pub patience: u32,
    }

    /// Key of `STATIONS`: somebody on a bridge's link.
    pub struct StationKey: 12 {
        /// The bridge's ifindex.
        pub bridge: u32,
        pub mac: [u8; 6],
        pub reserved: u16,
    }

    /// Value of `STATIONS`: behind which port somebody is. Written by the daemon but for `seen`.
    pub struct Station: 24 {
        /// Jiffies: when a program last had a packet of the station go through the bridge.
        pub seen: u64,
        /// The port's, its MTU in bytes, and `PORT_*`.
        pub ifindex: u32,
        pub mtu: u32,
        pub flags: u32,
        pub reserved: u32,
    }

    /// Value of `COUNTERS`, one for each CPU.
    pub struct Counter: 16 {
        pub packets: u64,
        pub bytes: u64,
    }

    /// `WATCHERS`: which packets somebody wants to hear of, and how many of them. Written by the daemon through a memory
    /// mapping, [`Watcher::active`] last.
    pub struct Watcher: 128 {
        /// 0: the entry is free.
        pub active: u32,
        /// 0: of any device.
        pub ifindex: u32,
        /// A bit for each [`packet_kind`].
        pub kinds: [u32; KIND_WORDS],
        /// 4, 6, or 0 for any packet, those without IP as well.
        pub family: u32,
        /// The IP protocol, or [`ANY`].
        pub protocol: u32,
        /// A port of TCP or UDP, of either side, or [`ANY`].
        pub port: u32,
        pub padding: u32,
        /// The other side's address, where `remote_mask` has ones; IPv4 in the first word.
        pub remote: [Be32; 4],
        pub remote_mask: [Be32; 4],
        /// The instance's, likewise.
        pub local: [Be32; 4],
        pub local_mask: [Be32; 4],
        /// On each CPU, one event may come every so many nanoseconds in the long run.
        pub interval: u64,
        /// And as many at once as fit in so many nanoseconds.
        pub burst: u64,
    }

    /// Value of `WATCHED`, one for each CPU: what became of the packets that an entry of `WATCHERS` wants.
    pub struct Watched: 32 {
        /// Nanoseconds of the monotonic clock: when the next event is due if none may come at once.
        pub due: u64,
        /// Events that were written.
        pub told: u64,
        /// Packets of which nobody was told, as there were too many.
        pub limited: u64,
        /// And those for which the ring had no room.
        pub full: u64,
    }

    /// A record of `EVENTS` and `NEW_FLOWS`: a packet and its verdict.
    pub struct Event: 176 {
        /// Nanoseconds of the monotonic clock.
        pub time: u64,
        /// [`Control::generation`] that the packet was judged by.
        pub generation: u64,
        /// A bit for each entry of `WATCHERS` that wants it.
        pub watchers: u32,
        pub ifindex: u32,
        /// The policy that decided, or that once admitted the flow; 0 if none had a part in it.
        pub policy: u32,
        /// Of the whole frame.
        pub bytes: u32,
        /// How much of the frame is in `frame`.
        pub captured: u32,
        /// The [`crate::verdict::Reason`].
        pub reason: u8,
        /// [`Direction`].
        pub direction: u8,
        /// `EVENT_*`.
        pub flags: u8,
        /// [`crate::conntrack::State`] after the packet, 0 without a flow.
        pub state: u8,
        pub reserved: u64,
        /// What lies behind `captured` is anything.
        pub frame: [u8; EVENT_FRAME],
    }
}

/// How much of a frame is told of.
pub const EVENT_FRAME: usize = 128;
/// [`Event::flags`]: the packet passes only because its interface is in audit.
pub const EVENT_AUDIT: u8 = 1;
/// [`Event::flags`]: it was judged at the device's egress, not at its ingress.
pub const EVENT_EGRESS: u8 = 1 << 1;
/// [`Event::flags`]: the device has taken a VLAN tag out of the frame.
pub const EVENT_VLAN: u8 = 1 << 2;
/// [`Event::flags`]: it was judged behind XDP, which has passed it before for another reason.
pub const EVENT_BEHIND_XDP: u8 = 1 << 3;

/// [`Event::flags`]: the filter has read its sides, so those who asked for some have been told of the right ones.
pub const EVENT_READ: u8 = 1 << 4;

/// Entries of `WATCHERS`.
pub const WATCHERS: u32 = 16;
/// The entry of `WATCHERS` whose events go to `NEW_FLOWS` instead of `EVENTS`, so that those who watch cannot take its room.
pub const NEW_FLOW_WATCHER: u32 = 0;
/// Bytes of `EVENTS` and of `NEW_FLOWS`, powers of two: room for 22,000 and 11,000 events.
pub const EVENTS_BYTES: u32 = 4 << 20;
/// As [`EVENTS_BYTES`].
pub const NEW_FLOWS_BYTES: u32 = 2 << 20;
/// [`Watcher::protocol`] and [`Watcher::port`]: whatever it is.
pub const ANY: u32 = u32::MAX;
/// Words of a bit for each [`packet_kind`].
pub const KIND_WORDS: usize = (2 * REASON_SLOTS / 32) as usize;

/// What kind of packet it is, for those who watch: its direction and what it is counted as.
#[inline(always)]
pub const fn packet_kind(direction: Direction, slot: u32) -> u32 {
    direction as u32 * REASON_SLOTS + slot
}

map_types! {
    /// Key of `ACCOUNTS_V4`.
    pub struct AccountKeyV4: 20 {
        pub flow: FlowKeyV4,
        /// 0 for what passes. What is dropped is counted apart, by reason: `reason << ACCOUNT_REASON_SHIFT`, with [`ACCOUNT_AUDIT`].
        pub dropped: u32,
    }

    /// Key of `ACCOUNTS_V6`, likewise.
    pub struct AccountKeyV6: 44 {
        pub flow: FlowKeyV6,
        pub dropped: u32,
    }

    /// Value of `ACCOUNTS_*`: what has passed, or was dropped, under one key since the account was opened. An account is apart from the entry of its
    /// flow, which comes and goes with every stage of a connection: only the collector deletes it, when it is recorded.
    pub struct Account: 96 {
        /// By [`Direction`]. Programs add atomically; nobody ever takes anything off.
        pub packets: [u64; 2],
        /// Of IP packets, with their headers.
        pub bytes: [u64; 2],
        /// What records have told of `packets` and `bytes` so far. The collector's alone.
        pub recorded_packets: [u64; 2],
        pub recorded_bytes: [u64; 2],
        /// Jiffies: the first packet that no record has told of; 0 if there is none.
        pub first: u64,
        /// Jiffies: the last packet.
        pub last: u64,
        /// The policy that admitted what passes, 0 if none was asked.
        pub policy: u32,
        /// The interface's row in `SHARES`.
        pub row: u32,
        /// All TCP flags since the last record, of inbound packets in the lowest byte, of outbound ones in the next.
        pub tcp_flags: u32,
        /// `ACCOUNT_*` and the [`crate::verdict::Reason`] of the first packet.
        pub kind: u32,
    }

    /// What the collector puts into `FLOW_RECORDS`: what has come under one key since the record before.
    pub struct FlowRecord: 104 {
        /// By [`Direction`].
        pub packets: [u64; 2],
        pub bytes: [u64; 2],
        /// Jiffies: the first and the last packet.
        pub first: u64,
        pub last: u64,
        /// As in the key. Of IPv4 addresses, only the first words are used.
        pub zone_protocol: u32,
        pub local: [Be32; 4],
        pub remote: [Be32; 4],
        pub ports: FlowPorts,
        /// As in [`Account`].
        pub policy: u32,
        pub tcp_flags: u32,
        pub kind: u32,
        /// 4 or 6.
        pub family: u32,
    }
}

/// [`Account::kind`]: what passes belongs to a flow that an outbound packet began; or, of no flow, the first packet was outbound.
pub const ACCOUNT_ORIGIN_OUTBOUND: u32 = 1;
/// [`Account::kind`]: there is a reason to drop it, and it passes all the same, as the interface is in audit.
pub const ACCOUNT_AUDIT: u32 = 1 << 1;
/// [`Account::kind`] above this bit: the number of a [`crate::verdict::Reason`].
pub const ACCOUNT_REASON_SHIFT: u32 = 8;

/// The third argument of the collector: which of the accounts to look at, in bits. Without any, at none.
pub mod collect {
    /// Record those that are over, and those whose first packet that no record has told of is as long ago as the fourth argument says.
    pub const RECORD: u64 = 1;
    /// Record all of which there is something to tell.
    pub const ALL: u64 = 1 << 1;
    /// Delete those that are over, without a record; with [`ALL`], all.
    pub const FORGET: u64 = 1 << 2;
    /// In the answer, above the number of flows: `FLOW_RECORDS` was full, and the rest waits for the next run.
    pub const FULL: u32 = 1 << 31;
}

/// Entries of `INTERFACES`, a power of two; many more than interfaces, so that a probe meets few of them.
pub const INTERFACE_SLOTS: u32 = 4096;
/// The unit of [`Flow::created`], in jiffies.
pub const CREATED_UNIT: u64 = 64;

/// [`Datagram::verdict`]: the first fragment has not come yet.
pub const DATAGRAM_EARLY: u32 = 0;
/// [`Datagram::verdict`]: the first fragment passed.
pub const DATAGRAM_ALLOW: u32 = 1;
/// [`Datagram::verdict`]: the first fragment was dropped.
pub const DATAGRAM_DROP: u32 = 2;
/// [`Datagram::verdict`]: the first fragment passed, and so did all others. Has the bit of [`DATAGRAM_ALLOW`].
pub const DATAGRAM_WHOLE: u32 = 5;

/// How many datagrams in pieces are remembered of each family, in shares of the interfaces: of 511 interfaces 128 each, of
/// 16 or fewer 4,096.
pub const DATAGRAMS: u32 = 65_536;

/// Set in [`OwnKeyV6::guard`] for routers.
pub const GUARD_ROUTER: u32 = 1 << 31;
/// Set in [`OwnKeyV4::guard`] and [`OwnKeyV6::guard`] for DHCP servers.
pub const GUARD_DHCP: u32 = 1 << 30;
/// Guards are numbered below this.
pub const MAX_GUARDS: u32 = 1 << 30;

/// How far `INTERFACES` is probed for an ifindex.
pub const INTERFACE_PROBES: u32 = 8;
/// The entry of `INTERFACES` to look at for an ifindex, in each of [`INTERFACE_PROBES`] attempts. Indexes are handed out
/// in a row, so they are spread (Knuth's multiplicative hash): in a table of their order, runs would meet.
#[inline(always)]
pub const fn interface_slot(ifindex: u32, probe: u32) -> u32 {
    ((ifindex.wrapping_mul(0x9e37_79b1) >> 20) + probe) & (INTERFACE_SLOTS - 1)
}
/// How many interfaces can be filtered at a time: rows of `COUNTERS` but the first.
pub const MAX_INTERFACES: u32 = 511;
/// Zones are 24 bits wide, see [`FlowKeyV4::zone_protocol`].
pub const MAX_ZONES: u32 = 1 << 24;

/// [`InterfaceHalf::flags`]: `role: host`, device ingress is inbound.
pub const FLAG_ROLE_HOST: u32 = 1;
/// [`InterfaceHalf::flags`]: only a SYN may start a TCP flow (SPEC D12).
pub const FLAG_STRICT_TCP: u32 = 1 << 1;
/// The guest may use only its own hardware address (SPEC section 6; this and the following).
pub const GUARD_MAC: u32 = 1 << 2;
/// The guest may use only its own IPv4 addresses.
pub const GUARD_IPV4: u32 = 1 << 3;
/// The guest may use only its own IPv6 addresses.
pub const GUARD_IPV6: u32 = 1 << 4;
/// The guest may announce only its own addresses by ARP.
pub const GUARD_ARP: u32 = 1 << 5;
/// The guest may announce only its own addresses by neighbour discovery, and both sides only without tricks.
pub const GUARD_ND: u32 = 1 << 6;
/// The guest may not be a DHCP server.
pub const GUARD_DHCP_SERVER: u32 = 1 << 7;
/// The guest may not be a router.
pub const GUARD_ROUTER_ADVERTISEMENT: u32 = 1 << 8;
/// Only configured routers may advertise themselves to the guest.
pub const GUARD_ROUTERS: u32 = 1 << 9;
/// No ICMP redirects in either direction.
pub const GUARD_REDIRECT: u32 = 1 << 10;
/// No VLAN tags.
pub const GUARD_VLAN: u32 = 1 << 11;
/// No EtherTypes but those listed.
pub const GUARD_ETHER_TYPE: u32 = 1 << 12;
/// No source routing.
pub const GUARD_SOURCE_ROUTE: u32 = 1 << 13;
/// [`GUARD_IPV6`] and [`GUARD_ND`] take any link-local address for the guest's own, not only that of its hardware
/// address: for guests that make stable private ones (RFC 7217).
pub const FLAG_ANY_LINK_LOCAL: u32 = 1 << 14;
/// The device is closed (SPEC D23) and nobody has said which addresses are its guest's: it may announce none.
pub const FLAG_CLOSED: u32 = 1 << 17;
/// Audit: what is to be dropped passes all the same, and is counted apart, see [`WOULD_DROP`].
pub const FLAG_AUDIT: u32 = 1 << 31;
/// DHCP servers for IPv4 are configured: only they may answer the guest.
pub const FLAG_DHCP_SERVERS_V4: u32 = 1 << 15;
/// Likewise for IPv6.
pub const FLAG_DHCP_SERVERS_V6: u32 = 1 << 16;
/// No inbound rule of the policy names a group: nobody need be asked for the groups of who sends. For outbound rules, the bit above.
pub const FLAG_NO_GROUPS_INBOUND: u32 = 1 << 18;
pub const FLAG_NO_GROUPS_OUTBOUND: u32 = FLAG_NO_GROUPS_INBOUND << Direction::Outbound as u32;

/// [`Flow::flags`]: the flow's first packet was outbound.
pub const FLOW_ORIGIN_OUTBOUND: u8 = 1;
/// [`Flow::flags`]: a packet of the other direction was seen.
pub const FLOW_REPLIED: u8 = 1 << 1;
/// [`Flow::flags`]: the side that began the flow has sent a FIN.
pub const FLOW_FIN_ORIGIN: u8 = 1 << 2;
/// [`Flow::flags`]: the other side has.
pub const FLOW_FIN_REPLY: u8 = 1 << 3;
/// [`Flow::place`]: the flow is live. Stored once and by whoever makes it live, unlike the flags, of which several CPUs may
/// store what they have read a while ago.
pub const FLOW_LIVE: u32 = 1 << 31;

impl Flow {
    /// It may be pushed out by newer ones of its interface.
    #[inline(always)]
    pub const fn is_half_open(&self) -> bool {
        self.place & FLOW_LIVE == 0
    }
}

/// Index in `COUNTERS` of one interface's counter of one reason; `row` is [`Interface::row`],
/// `reason` the number of a [`crate::verdict::Reason`].
#[inline(always)]
pub const fn counter_index(row: u32, direction: Direction, reason: u32) -> u32 {
    (row * 2 + direction as u32) * REASON_SLOTS + reason
}

/// The row that an index in `COUNTERS` lies in.
#[inline(always)]
pub const fn row_of(index: u32) -> u32 {
    index / (2 * REASON_SLOTS)
}

/// Room for this many reasons in `COUNTERS`, some of it spare: those to pass for, those to drop for, and the latter once
/// more for interfaces in audit.
pub const REASON_SLOTS: u32 = 96;
/// What an interface in audit lets pass although there is a reason to drop it is counted this far behind that reason.
pub const WOULD_DROP: u32 = 32;
/// The counter, beside those of reasons, of packets that the program behind XDP has counted for a reason of its own, and XDP
/// before it for having passed them (SPEC D24).
pub const COUNTED_TWICE: u32 = 31;

/// The counter, beside those of reasons, of packets that were handed to another port of the bridge; each is counted for its reason
/// too.
pub const HANDED_ON: u32 = 30;

/// A hardware address as [`Port::station`] has it.
#[inline(always)]
pub const fn port_station(mac: [u8; 6]) -> u64 {
    let [a, b, c, d, e, f] = mac;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

/// [`Station::flags`]: the port is isolated from others that are.
pub const PORT_ISOLATED: u32 = 1;

/// 65,536 bits: an element of `PORT_SETS`.
pub const PORT_SET_BYTES: usize = 8192;

/// A set of 16-bit numbers in 32 bits: nothing, one range, or a table in `PORT_SETS`.
///
/// Layout: `low << 16 | high`. `low <= high` is that range; of the remaining half, `low == 0xffff` is the table with
/// index `high`, and everything else is the empty set, of which only [`PortSet::EMPTY`] is ever written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable))]
#[repr(transparent)]
pub struct PortSet(u32);

impl PortSet {
    pub const EMPTY: Self = Self(1 << 16);
    pub const ALL: Self = Self(0x0000_ffff);
    /// How many tables can be told apart.
    pub const MAX_TABLES: u32 = 0xffff;

    /// `low..=high`; empty if `low > high`.
    pub const fn range(low: u16, high: u16) -> Self {
        if low <= high { Self(((low as u32) << 16) | high as u32) } else { Self::EMPTY }
    }

    /// The table at `index`, which is below [`Self::MAX_TABLES`]; `None` otherwise.
    pub const fn table(index: u32) -> Option<Self> {
        if index < Self::MAX_TABLES { Some(Self(0xffff_0000 | index)) } else { None }
    }

    /// What the 32 bits mean.
    #[inline(always)]
    pub const fn kind(self) -> PortSetKind {
        let low = (self.0 >> 16) as u16;
        let high = self.0 as u16;
        if low <= high {
            PortSetKind::Range(low, high)
        } else if low == 0xffff {
            PortSetKind::Table(high as u32)
        } else {
            PortSetKind::Empty
        }
    }
}

impl core::fmt::Debug for PortSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.kind().fmt(f)
    }
}

/// [`PortSet`], taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortSetKind {
    Empty,
    Range(u16, u16),
    Table(u32),
}

impl Row {
    pub const EMPTY: Self =
        Self { tcp: PortSet::EMPTY, udp: PortSet::EMPTY, icmp: PortSet::EMPTY, other: PortSet::EMPTY };
}

/// The maps' names, as the object and the pin directory have them.
pub mod map {
    pub const CONTROL: &str = "CONTROL";
    pub const INTERFACES: &str = "INTERFACES";
    pub const CLASSES_V4: &str = "CLASSES_V4";
    pub const CLASSES_V6: &str = "CLASSES_V6";
    pub const MEMBERS_V4: &str = "MEMBERS_V4";
    pub const MEMBERS_V6: &str = "MEMBERS_V6";
    pub const PAIRS: &str = "PAIRS";
    pub const PORT_SETS: &str = "PORT_SETS";
    pub const FLOWS_V4: &str = "FLOWS_V4";
    pub const FLOWS_V6: &str = "FLOWS_V6";
    pub const TAGS_V4: &str = "TAGS_V4";
    pub const TAGS_V6: &str = "TAGS_V6";
    pub const RING_V4: &str = "RING_V4";
    pub const RING_V6: &str = "RING_V6";
    pub const FRAGMENTS_V4: &str = "FRAGMENTS_V4";
    pub const FRAGMENTS_V6: &str = "FRAGMENTS_V6";
    pub const FRAG_RING_V4: &str = "FRAG_RING_V4";
    pub const FRAG_RING_V6: &str = "FRAG_RING_V6";
    pub const OWN_V4: &str = "OWN_V4";
    pub const OWN_V6: &str = "OWN_V6";
    pub const SHARES: &str = "SHARES";
    pub const COUNTERS: &str = "COUNTERS";
    pub const WATCHERS: &str = "WATCHERS";
    pub const WATCHED: &str = "WATCHED";
    pub const EVENTS: &str = "EVENTS";
    pub const NEW_FLOWS: &str = "NEW_FLOWS";
    pub const ACCOUNTS_V4: &str = "ACCOUNTS_V4";
    pub const ACCOUNTS_V6: &str = "ACCOUNTS_V6";
    pub const FLOW_RECORDS: &str = "FLOW_RECORDS";
    pub const PORTS: &str = "PORTS";
    pub const STATIONS: &str = "STATIONS";
}

/// The programs' names in the object.
pub mod program {
    pub const XDP_INGRESS: &str = "sgd_xdp_ingress";
    pub const TC_INGRESS: &str = "sgd_tc_ingress";
    pub const TC_EGRESS: &str = "sgd_tc_egress";
    pub const TC_CHECKSUM: &str = "sgd_tc_checksum";
    pub const EXPLAIN: &str = "sgd_explain";
    pub const COLLECT: &str = "sgd_collect";
    pub const CLOCK: &str = "sgd_clock";
}

/// Where the kernel that runs keeps what `__sk_buff` does not show of a packet: bytes from the start of its `struct sk_buff`
/// (include/linux/skbuff.h). It differs from build to build; the daemon learns it from the kernel's BTF and sets it in the
/// object, where the verifier takes it for a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct SkBuff {
    /// The byte that holds `ip_summed`.
    pub summed: u32,
    /// The bits of it; 0: the layout is not known, and no packet is asked about its checksum.
    pub summed_mask: u32,
    /// What these bits are for `CHECKSUM_PARTIAL`.
    pub summed_partial: u32,
    pub csum_start: u32,
    pub csum_offset: u32,
    pub head: u32,
    pub data: u32,
    /// The number of the kernel's function `bpf_cast_to_kern_ctx`, through which the structure is read as fast as any memory;
    /// 0: there is none (before Linux 6.2), and each word takes a helper's call.
    pub cast: u32,
}

impl SkBuff {
    /// The helper that the object calls in place of that function: the daemon changes the calls, as the number of a function
    /// differs from build to build too.
    pub const CAST_CALL: u32 = 0x5347_4443;
    /// The symbol in the object.
    pub const SYMBOL: &str = "SK_BUFF";
    pub const UNKNOWN: Self = Self {
        summed: 0,
        summed_mask: 0,
        summed_partial: 0,
        csum_start: 0,
        csum_offset: 0,
        head: 0,
        data: 0,
        cast: 0,
    };
}

// SAFETY: `repr(C)` over words of one size.
#[cfg(feature = "user")]
unsafe impl aya::Pod for SkBuff {}

/// The words of `__sk_buff.cb` through which `sgd_explain` is asked and answers.
pub mod explain {
    /// Question: 1 for the ingress hook, 2 for the egress hook. Answer: [`crate::verdict::Reason`].
    pub const CB_HOOK_REASON: usize = 0;
    /// Answer: `ADMITTED_*`.
    pub const CB_ADMITTED: usize = 1;
    /// Answer: the flow's [`crate::conntrack::State`], 0 if there is none.
    pub const CB_STATE: usize = 2;
    /// Answer: the policy that decided, or that admitted the flow.
    pub const CB_POLICY: usize = 3;
    /// Answer: 1 if the packet passes although there is a reason to drop it ([`super::FLAG_AUDIT`]), else 0.
    pub const CB_AUDIT: usize = 4;

    pub const HOOK_INGRESS: u32 = 1;
    pub const HOOK_EGRESS: u32 = 2;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_sets_keep_what_they_are_made_of() {
        assert_eq!(PortSet::EMPTY.kind(), PortSetKind::Empty);
        assert_eq!(PortSet::ALL.kind(), PortSetKind::Range(0, 65535));
        assert_eq!(PortSet::range(80, 80).kind(), PortSetKind::Range(80, 80));
        assert_eq!(PortSet::range(65535, 65535).kind(), PortSetKind::Range(65535, 65535));
        assert_eq!(PortSet::range(81, 80), PortSet::EMPTY);
        assert_eq!(PortSet::table(0).map(PortSet::kind), Some(PortSetKind::Table(0)));
        assert_eq!(PortSet::table(65534).map(PortSet::kind), Some(PortSetKind::Table(65534)));
        assert_eq!(PortSet::table(65535), None, "0xffff_ffff is the range of port 65535 alone");
    }

    #[test]
    fn byte_order_is_the_packets() {
        assert_eq!(Be32::from_host(0x0a00_0001).0.to_ne_bytes(), [10, 0, 0, 1]);
        assert_eq!(Be32::from_host(7).to_host(), 7);
    }

    #[test]
    fn spec_d24_every_counter_has_a_place_of_its_own() {
        let mut next = 0;
        for row in 0..=MAX_INTERFACES {
            for direction in [Direction::Inbound, Direction::Outbound] {
                for reason in 0..REASON_SLOTS {
                    assert_eq!(counter_index(row, direction, reason), next);
                    next += 1;
                }
            }
        }
    }

    #[test]
    fn policies_keep_their_number_beside_the_direction() {
        let both = [Direction::Inbound, Direction::Outbound];
        for policy in [0, 1, 2, MAX_POLICY_ID] {
            let [inbound, outbound] = both.map(|direction| PolicyDirection::new(policy, direction));
            assert_eq!([inbound.policy(), outbound.policy()], [policy; 2]);
            assert_ne!(inbound, outbound);
        }
        assert_eq!(PolicyDirection::new(MAX_POLICY_ID, Direction::Outbound).0, u32::MAX);
    }

    #[test]
    fn interfaces_in_a_row_are_found_at_once_or_nearly() {
        // As many as there may be, wherever their numbers begin: each must find a free entry where it will be looked for.
        for first in [1, 4000, 1 << 20] {
            let mut taken = [0; INTERFACE_SLOTS as usize];
            let mut at_once = 0;
            for ifindex in first..first + MAX_INTERFACES {
                let place = (0..INTERFACE_PROBES)
                    .find(|&probe| taken[interface_slot(ifindex, probe) as usize] == 0)
                    .expect("a free entry");
                taken[interface_slot(ifindex, place) as usize] = ifindex;
                at_once += u32::from(place == 0);
            }
            assert!(at_once > MAX_INTERFACES * 9 / 10, "{at_once}");
        }
        // The last entry's neighbour is the first.
        for ifindex in 1..10_000 {
            for probe in 1..INTERFACE_PROBES {
                let before = interface_slot(ifindex, probe - 1);
                assert_eq!(interface_slot(ifindex, probe), (before + 1) % INTERFACE_SLOTS);
            }
        }
    }

    #[test]
    fn flags_are_bits_of_their_own() {
        let of_an_interface = [
            FLAG_ROLE_HOST,
            FLAG_STRICT_TCP,
            GUARD_MAC,
            GUARD_IPV4,
            GUARD_IPV6,
            GUARD_ARP,
            GUARD_ND,
            GUARD_DHCP_SERVER,
            GUARD_ROUTER_ADVERTISEMENT,
            GUARD_ROUTERS,
            GUARD_REDIRECT,
            GUARD_VLAN,
            GUARD_ETHER_TYPE,
            GUARD_SOURCE_ROUTE,
            FLAG_ANY_LINK_LOCAL,
            FLAG_DHCP_SERVERS_V4,
            FLAG_DHCP_SERVERS_V6,
        ];
        let of_a_flow = [FLOW_ORIGIN_OUTBOUND, FLOW_REPLIED, FLOW_FIN_ORIGIN, FLOW_FIN_REPLY];
        for (bit, flag) in of_an_interface.into_iter().enumerate() {
            assert_eq!(flag, 1 << bit);
        }
        for (bit, flag) in of_a_flow.into_iter().enumerate() {
            assert_eq!(flag, 1 << bit);
        }
        // Far from the others, and from one that is not listed here.
        assert_eq!((FLAG_CLOSED, FLAG_AUDIT), (1 << 17, 1 << 31));
        // Beside the number of a guard in the keys of `OWN_*`, and of a zone beside a protocol in those of flows.
        assert_eq!((GUARD_DHCP, GUARD_ROUTER, MAX_GUARDS), (1 << 30, 1 << 31, 1 << 30));
        assert_eq!((MAX_ZONES - 1) << 8 | 0xff, u32::MAX);
    }
}
