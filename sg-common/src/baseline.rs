//! What passes without a rule because no instance can live without it, and what a guest may not do whatever the rules say
//! (SPEC section 6). Each guard has a flag, which settings clear, and a reason of its own.

use crate::abi::{
    Be32, Direction, FLAG_ANY_LINK_LOCAL, FlowPorts, FLAG_CLOSED, FLAG_DHCP_SERVERS_V4, FLAG_DHCP_SERVERS_V6,
    FLAG_ROLE_HOST, GUARD_ARP, GUARD_DHCP, GUARD_DHCP_SERVER, GUARD_ETHER_TYPE, GUARD_IPV4, GUARD_IPV6,
    GUARD_MAC, GUARD_ND, GUARD_REDIRECT, GUARD_ROUTER, GUARD_ROUTER_ADVERTISEMENT, GUARD_ROUTERS,
    GUARD_SOURCE_ROUTE, InterfaceHalf,
};
use crate::family::{Family, V4, V6};
use crate::judge::Tables;
use crate::packet::{
    Arp, Ethernet, Ip, Kind, LinkLayerOption, Neighbor, Opaque, Packet, ReadIp, Transport, ether_type,
    protocol, rolled,
};
use crate::verdict::Reason;

/// Where a packet is, for the guards.
pub struct Guarded<'a> {
    pub half: &'a InterfaceHalf,
    pub direction: Direction,
}

impl Guarded<'_> {
    #[inline(always)]
    const fn has(&self, guard: u32) -> bool {
        self.half.flags & guard != 0
    }

    /// Whether the guest has sent the packet, and what it may send is limited by `guard`.
    #[inline(always)]
    const fn guards_sender(&self, guard: u32) -> bool {
        matches!(self.direction, Direction::Outbound) && self.has(guard)
    }

    /// The frame's sender (section 6).
    ///
    /// # Errors
    ///
    /// The reason to drop the frame for.
    #[inline(always)]
    pub fn ethernet(&self, ethernet: &Ethernet) -> Result<(), Reason> {
        if self.guards_sender(GUARD_MAC) && ethernet.source != self.half.mac {
            return Err(Reason::SourceMac);
        }
        Ok(())
    }

    /// Frames that carry no IP.
    ///
    /// # Errors
    ///
    /// The reason to drop the frame for.
    #[inline(always)]
    pub fn non_ip<P, T>(&self, packet: &P, tables: &T, network: u32, kind: u16) -> Result<Reason, Reason>
    where
        P: Packet,
        T: Tables<V4> + Tables<V6>,
    {
        match kind {
            ether_type::ARP | ether_type::RARP if self.guards_sender(FLAG_CLOSED) => Err(Reason::NoRule),
            ether_type::ARP => self.arp(packet, tables, network),
            ether_type::RARP => Ok(Reason::Arp),
            ether_type::VLAN | ether_type::PROVIDER_VLAN => Err(Reason::Vlan),
            // Zero fills up the list.
            _ if !self.has(GUARD_ETHER_TYPE) || (kind != 0 && self.half.ether_types.contains(&kind)) => {
                Ok(Reason::EtherTypeListed)
            }
            _ => Err(Reason::EtherType),
        }
    }

    /// RFC 826; a probe has no sender address yet (RFC 5227).
    #[inline(never)]
    fn arp<P: Packet, T: Tables<V4>>(&self, packet: &P, tables: &T, network: u32) -> Result<Reason, Reason> {
        let Some(arp) = packet.read::<Arp>(network) else { return Err(Reason::Malformed) };
        let ethernet_ipv4 = u16::from_be(arp.hardware) == 1
            && u16::from_be(arp.protocol) == ether_type::IPV4
            && arp.hardware_bytes == 6
            && arp.protocol_bytes == 4;
        if !ethernet_ipv4 {
            return Err(Reason::Malformed);
        }
        if self.guards_sender(GUARD_ARP) {
            let address = Be32(u32::from_ne_bytes(arp.sender_address));
            if self.has(GUARD_MAC) && arp.sender_mac != self.half.mac {
                return Err(Reason::ArpSpoof);
            }
            if address.0 != 0 && !owns::<V4, T>(tables, self.half, address) {
                return Err(Reason::ArpSpoof);
            }
        }
        Ok(Reason::Arp)
    }

    /// Whether [`Self::ip`] has nothing to say about a packet, as of nearly all: at one glance. False: ask it.
    #[inline(always)]
    pub fn lets_pass<F: GuardFamily>(&self, ip: &Ip<F>, transport: &Transport) -> bool {
        let FlowPorts { local, remote } = transport.ports;
        let ordinary = match transport.kind {
            Kind::Tcp | Kind::IcmpRequest | Kind::IcmpReply | Kind::Other => true,
            Kind::Udp => local != F::DHCP_CLIENT && remote != F::DHCP_CLIENT,
            Kind::IcmpOther => false,
        };
        ordinary && (!self.guards_sender(F::GUARD) || is_first_own::<F>(self.half, ip.source))
    }

    /// IP packets that pass whatever the rules say (`Some`), or that a guest may not send or see.
    ///
    /// # Errors
    ///
    /// The reason to drop the packet for.
    #[inline(always)]
    pub fn ip<F: GuardFamily, P: Packet, T: Tables<F>>(
        &self,
        packet: &P,
        tables: &T,
        ip: &Ip<F>,
        transport: &Transport,
        position: Opaque<'_>,
    ) -> Result<Option<Reason>, Reason> {
        let closed = self.guards_sender(FLAG_CLOSED);
        let is_discovery = matches!(transport.kind, Kind::IcmpOther) && F::ICMP == protocol::ICMPV6;
        if is_discovery
            && !closed
            && let Some(reason) = F::discovery(self, packet, tables, ip, transport, position)?
        {
            return Ok(Some(reason));
        }
        let kind = (transport.number >> 8) as u8;
        if matches!(transport.kind, Kind::IcmpOther) && kind == F::REDIRECT && self.has(GUARD_REDIRECT) {
            return Err(Reason::Redirect);
        }
        let (client, server) = (F::DHCP_CLIENT, if F::BIT == 0 { 67 } else { 547 });
        let ports = transport.ports;
        // RFC 2131, section 4.1; RFC 8415, section 7.2. The instance is the client.
        if matches!(transport.kind, Kind::Udp) {
            if ports.local == client && ports.remote == server && !closed && self.serves_dhcp(tables, ip) {
                let from_nowhere = F::is_unspecified(ip.source);
                if !from_nowhere {
                    self.source(tables, ip)?;
                }
                return Ok(Some(Reason::Dhcp));
            }
            // Clients look at the destination's port only.
            if self.guards_sender(GUARD_DHCP_SERVER) && ports.remote == client {
                return Err(Reason::DhcpServer);
            }
        }
        self.source(tables, ip)?;
        Ok(None)
    }

    /// Whether the other side of a DHCP message is one that the guest may talk to without a rule. It finds its server by
    /// asking everybody on its link; to write to a server that nobody has configured would be a way out to anybody.
    #[inline(always)]
    fn serves_dhcp<F: GuardFamily, T: Tables<F>>(&self, tables: &T, ip: &Ip<F>) -> bool {
        if self.has(FLAG_ROLE_HOST) {
            return true;
        }
        let remote = match self.direction {
            Direction::Outbound if ip.destination == F::DHCP_SERVERS => return true,
            Direction::Outbound => ip.destination,
            Direction::Inbound if !self.has(F::DHCP_CONFIGURED) => return true,
            Direction::Inbound => ip.source,
        };
        tables.owns(&F::own_key(self.half.guard | GUARD_DHCP, remote))
    }

    /// What a packet's or a later fragment's header alone tells.
    ///
    /// # Errors
    ///
    /// The reason to drop the packet for.
    #[inline(always)]
    pub fn route<F: Family>(&self, ip: &Ip<F>) -> Result<(), Reason> {
        if ip.source_routed && self.has(GUARD_SOURCE_ROUTE) {
            return Err(Reason::SourceRoute);
        }
        Ok(())
    }

    /// The packet's source must be the guest's.
    ///
    /// # Errors
    ///
    /// The reason to drop the packet for.
    #[inline(always)]
    pub fn source<F: GuardFamily, T: Tables<F>>(&self, tables: &T, ip: &Ip<F>) -> Result<(), Reason> {
        if self.guards_sender(F::GUARD) && !is_own::<F, T>(tables, self.half, ip.source) {
            return Err(Reason::SourceAddress);
        }
        Ok(())
    }
}

#[inline(always)]
fn is_first_own<F: ReadIp>(half: &InterfaceHalf, address: F::Address) -> bool {
    address == F::first_own(half) && !F::is_unspecified(address)
}

#[inline(always)]
fn owns<F: ReadIp, T: Tables<F>>(tables: &T, half: &InterfaceHalf, address: F::Address) -> bool {
    is_first_own::<F>(half, address) || tables.owns(&F::own_key(half.guard, address))
}

/// Whether a guest may use an address, because it is listed or follows from its hardware address. A router's never does.
#[inline(always)]
fn is_own<F: GuardFamily, T: Tables<F>>(tables: &T, half: &InterfaceHalf, address: F::Address) -> bool {
    owns::<F, T>(tables, half, address)
        || (F::owns_by_nature(half, address) && !tables.owns(&F::own_key(half.guard | GUARD_ROUTER, address)))
}

/// What the guards need to know of a family.
pub trait GuardFamily: ReadIp {
    /// The flag that ties a guest to its addresses.
    const GUARD: u32;

    /// A DHCP client's port: RFC 2131, section 4.1; RFC 8415, section 7.2.
    const DHCP_CLIENT: u16;
    /// Whom a DHCP client asks that knows no server: RFC 2131, section 4.1; RFC 8415, section 7.1.
    const DHCP_SERVERS: Self::Address;
    /// The flag that says that servers are configured.
    const DHCP_CONFIGURED: u32;

    /// Whether an address is the guest's without being listed.
    fn owns_by_nature(half: &InterfaceHalf, address: Self::Address) -> bool;

    /// Neighbour discovery, which IPv4 has not.
    ///
    /// # Errors
    ///
    /// The reason to drop the packet for.
    fn discovery<P: Packet, T: Tables<Self>>(
        guarded: &Guarded<'_>,
        packet: &P,
        tables: &T,
        ip: &Ip<Self>,
        transport: &Transport,
        position: Opaque<'_>,
    ) -> Result<Option<Reason>, Reason>;
}

impl GuardFamily for V4 {
    const GUARD: u32 = GUARD_IPV4;
    const DHCP_CLIENT: u16 = 68;
    const DHCP_SERVERS: Be32 = Be32(u32::MAX);
    const DHCP_CONFIGURED: u32 = FLAG_DHCP_SERVERS_V4;

    #[inline(always)]
    fn owns_by_nature(_half: &InterfaceHalf, _address: Be32) -> bool {
        false
    }

    #[inline(always)]
    fn discovery<P: Packet, T: Tables<Self>>(
        _guarded: &Guarded<'_>,
        _packet: &P,
        _tables: &T,
        _ip: &Ip<Self>,
        _transport: &Transport,
        _position: Opaque<'_>,
    ) -> Result<Option<Reason>, Reason> {
        Ok(None)
    }
}

impl GuardFamily for V6 {
    const GUARD: u32 = GUARD_IPV6;
    const DHCP_CLIENT: u16 = 546;
    const DHCP_SERVERS: [Be32; 4] =
        [Be32::from_host(0xff02_0000), Be32(0), Be32(0), Be32::from_host(0x0001_0002)];
    const DHCP_CONFIGURED: u32 = FLAG_DHCP_SERVERS_V6;

    /// The link-local address that follows from the hardware address (RFC 4291, appendix A), or any if it may be.
    #[inline(always)]
    fn owns_by_nature(half: &InterfaceHalf, address: [Be32; 4]) -> bool {
        if !is_link_local(address) {
            return false;
        }
        if half.flags & FLAG_ANY_LINK_LOCAL != 0 {
            return true;
        }
        let [a, b, c, d, e, f] = half.mac;
        address[0].to_host() == 0xfe80_0000
            && address[1].0 == 0
            && address[2].0 == u32::from_ne_bytes([a ^ 2, b, c, 0xff])
            && address[3].0 == u32::from_ne_bytes([0xfe, d, e, f])
    }

    /// RFC 4861; RFC 2710 and RFC 3810 for the reports that switches snoop; RFC 6980: never in pieces.
    #[inline(always)]
    fn discovery<P: Packet, T: Tables<Self>>(
        guarded: &Guarded<'_>,
        packet: &P,
        tables: &T,
        ip: &Ip<Self>,
        transport: &Transport,
        position: Opaque<'_>,
    ) -> Result<Option<Reason>, Reason> {
        const PASS: Result<Option<Reason>, Reason> = Ok(Some(Reason::NeighborDiscovery));
        let kind = transport.number >> 8;
        let outbound = matches!(guarded.direction, Direction::Outbound);
        let strict = guarded.has(GUARD_ND);
        match kind {
            // They come from link-local addresses, and go to groups (RFC 3810, section 5).
            130..=132 | 143 if ip.hop_limit == 1 && ip.piece.is_whole() && is_listener_report(ip) => {
                if !V6::is_unspecified(ip.source) {
                    guarded.source(tables, ip)?;
                }
                return PASS;
            }
            133..=136 => {}
            _ => return Ok(None),
        }
        // A hop limit of 255 proves that no router has forwarded the message.
        if ip.hop_limit != 255 || !ip.piece.is_whole() {
            return if strict { Err(Reason::NeighborSpoof) } else { Ok(None) };
        }
        if kind == 134 {
            if outbound {
                let refused = guarded.has(GUARD_ROUTER_ADVERTISEMENT);
                return if refused { Err(Reason::RouterAdvertisement) } else { PASS };
            }
            if tables.owns(&V6::own_key(guarded.half.guard | GUARD_ROUTER, ip.source))
                || guarded.has(FLAG_ROLE_HOST)
            {
                return PASS;
            }
            // If nobody has said who the routers are, the rules may.
            return if guarded.has(GUARD_ROUTERS) { Err(Reason::RouterAdvertisement) } else { Ok(None) };
        }
        if outbound && strict {
            // A guest of whose addresses nobody has told can be held to none.
            let half = guarded.half;
            let known = !V6::is_unspecified(half.own_v6) || !V4::is_unspecified(half.own_v4);
            let own = |address| is_own::<V6, T>(tables, guarded.half, address);
            if known && !V6::is_unspecified(ip.source) && !own(ip.source) {
                return Err(Reason::NeighborSpoof);
            }
            if kind == 136 {
                // Behind the packet's end there may be padding, which is no target.
                let is_whole = ip.transport + size_of::<Neighbor>() as u32 <= ip.end;
                let Some(message) = packet.read::<Neighbor>(ip.transport).filter(|_| is_whole) else {
                    return Err(Reason::Malformed);
                };
                if known && !own(message.target) {
                    return Err(Reason::NeighborSpoof);
                }
            }
            let options = ip.transport + if kind == 133 { 8 } else { 24 };
            if guarded.has(GUARD_MAC) && announces_another(packet, half.mac, options, ip.end, position) {
                return Err(Reason::NeighborSpoof);
            }
        }
        PASS
    }
}

/// Whether a message has the addresses of multicast listener discovery; others would be a way to anybody.
#[inline(always)]
fn is_listener_report(ip: &Ip<V6>) -> bool {
    (is_link_local(ip.source) || V6::is_unspecified(ip.source)) && ip.destination[0].to_host() >> 24 == 0xff
}

#[inline(always)]
const fn is_link_local(address: [Be32; 4]) -> bool {
    address[0].to_host() >> 22 == 0xfe80_0000 >> 22
}

/// How many options of a neighbour discovery message are looked at. None has more than two that matter here.
const MAX_OPTIONS: u32 = 8;

/// Whether an option tells of another hardware address (RFC 4861, section 4.6.1), or the options are such that receivers may
/// read them otherwise than they are read here.
#[inline(always)]
fn announces_another<P: Packet>(
    packet: &P,
    mac: [u8; 6],
    start: u32,
    end: u32,
    mut position: Opaque<'_>,
) -> bool {
    position.set(start);
    let mut looked = 0;
    while rolled(looked) < MAX_OPTIONS {
        let at = position.get();
        if at >= end {
            return false;
        }
        let Some(option) = packet.read::<LinkLayerOption>(at) else { return true };
        let next = at + u32::from(option.length) * 8;
        if option.length == 0 || next > end || (matches!(option.kind, 1 | 2) && option.mac != mac) {
            return true;
        }
        position.set(next);
        looked += 1;
    }
    position.get() < end
}
