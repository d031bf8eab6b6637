//! Frames that no honest stack sends, and honest ones that look like them. In Python; see sender.py for the words.

use super::table::Through::{self, All, Exactly, Nothing};

/// Who tries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A guest against the outside, and the outside against a guest.
    Both,
    Guest,
    /// A guest against its neighbour on the link.
    Neighbor,
    Outside,
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub name: &'static str,
    pub from: By,
    /// What the other side sends first, so that there is a flow.
    pub before: Option<&'static str>,
    pub frames: &'static str,
    /// A pcap expression where packets are not marked by [`super::scapy::marked`].
    pub counted: Option<&'static str>,
    pub through: Through,
    /// What the filter must call what it drops, or one of those that pass.
    pub reasons: &'static [&'static str],
}

pub const fn case(
    name: &'static str,
    from: By,
    frames: &'static str,
    through: Through,
    reasons: &'static [&'static str],
) -> Case {
    Case { name, from, before: None, frames, counted: None, through, reasons }
}

impl Case {
    const fn after(mut self, before: &'static str) -> Self {
        self.before = Some(before);
        self
    }

    pub const fn counted(mut self, expression: &'static str) -> Self {
        self.counted = Some(expression);
        self
    }
}

use By::{Both, Guest, Neighbor, Outside};

pub const FRAGMENTS: &[Case] = &[
    case("an honest datagram", Both, "v4()/udp()", All, &["new_flow"]),
    case("an honest datagram, v6", Both, "v6()/udp()", All, &["new_flow"]),
    case(
        "honest fragments, in order",
        Both,
        "[f4(0, datagram(72)[:32], 1), f4(4, bytes(32), 1), f4(8, bytes(8), 0)]",
        All,
        &["fragment"],
    ),
    case(
        "honest fragments, the last first",
        Both,
        "[f4(8, bytes(8), 0), f4(4, bytes(32), 1), f4(0, datagram(72)[:32], 1)]",
        All,
        &["early_fragment"],
    ),
    case(
        "honest fragments, v6",
        Both,
        "[f6(0, datagram(72)[:32], 1), f6(8, bytes(8), 0), f6(4, bytes(32), 1)]",
        All,
        &["fragment"],
    ),
    case(
        "overlapping fragments",
        Both,
        "[f4(0, datagram(48)[:32], 1), f4(3, bytes(24), 0)]",
        Exactly(1),
        &["fragment_overlap"],
    ),
    case(
        "overlapping fragments, v6",
        Both,
        "[f6(0, datagram(48)[:32], 1), f6(3, bytes(24), 0)]",
        Exactly(1),
        &["fragment_overlap"],
    ),
    case(
        "a first fragment that overlaps an earlier piece",
        Both,
        "[f4(3, bytes(24), 0), f4(0, datagram(48)[:32], 1)]",
        Exactly(1),
        &["fragment_overlap"],
    ),
    case(
        "teardrop",
        Both,
        "[f4(0, datagram(60)[:32], 1), f4(1, bytes(8), 0)]",
        Exactly(1),
        &["fragment_overlap"],
    ),
    case(
        "teardrop, v6",
        Both,
        "[f6(0, datagram(60)[:32], 1), f6(1, bytes(8), 0)]",
        Exactly(1),
        &["fragment_overlap"],
    ),
    case(
        "a first fragment sent again, to a closed port",
        Both,
        "[f4(0, datagram(48)[:32], 1), f4(0, struct.pack('!HHHH', SPORT, 54, 48, 0) + bytes(24), 1)]",
        Exactly(1),
        &["no_rule"],
    ),
    case(
        "a fragment at offset 1 that rewrites TCP flags",
        Both,
        "[f4(0, segment(), 1, 6), f4(1, bytes(16), 0, 6)]",
        Exactly(1),
        &["tiny_fragment"],
    ),
    case(
        "a fragment at offset 1 that rewrites TCP flags, v6",
        Both,
        "[f6(0, segment(), 1, 6), f6(1, bytes(16), 0, 6)]",
        Exactly(1),
        &["tiny_fragment"],
    ),
    case(
        "a first fragment of 8 bytes of TCP",
        Both,
        "[f4(0, segment()[:8], 1, 6), f4(1, segment()[8:], 0, 6)]",
        Nothing,
        &["tiny_fragment", "fragment_of_dropped"],
    ),
    case(
        "a first fragment of 16 bytes of TCP",
        Both,
        "[f4(0, segment()[:16], 1, 6), f4(2, segment()[16:], 0, 6)]",
        Nothing,
        &["tiny_fragment", "fragment_of_dropped"],
    ),
    case(
        "a first fragment of 8 bytes of TCP, v6",
        Both,
        "[f6(0, segment()[:8], 1, 6), f6(1, segment()[8:], 0, 6)]",
        Nothing,
        &["tiny_fragment", "fragment_of_dropped"],
    ),
    case(
        "fragments of a datagram to a closed port",
        Both,
        "[f4(0, struct.pack('!HHHH', SPORT, 54, 48, 0) + bytes(24), 1), f4(4, bytes(16), 0)]",
        Nothing,
        &["no_rule", "fragment_of_dropped"],
    ),
    case(
        "a fragment that ends beyond 65,535 bytes",
        Both,
        "f4(8189, bytes(400), 0)",
        Nothing,
        &["malformed"],
    ),
    case(
        "a fragment that ends beyond 65,535 bytes, v6",
        Both,
        "f6(8189, bytes(400), 0)",
        Nothing,
        &["malformed"],
    ),
];

pub const HEADERS: &[Case] = &[
    case(
        "checksums left to the next device, where they belong",
        Both,
        "[offload(v4()/udp(), 34, 6), offload(v6()/udp(), 54, 6), offload(v4()/tcp(), 34, 16)]",
        All,
        &["new_flow"],
    ),
    case(
        "checksums left to the next device, over what is judged",
        Both,
        "[offload(v4()/udp(), 34, 2), offload(v4()/udp(), 20, 6), offload(v4()/tcp(), 34, 13), \
          offload(v6()/udp(), 54, 2), offload(v6()/tcp(), 54, 0)]",
        Nothing,
        &["checksum_place"],
    ),
    case(
        "a checksum left to the next device, over the sender in ARP",
        Neighbor,
        "offload(e('ff:ff:ff:ff:ff:ff')/ARP(op=2, hwsrc=ME, psrc=ME4, hwdst='de:ad:be:ef:00:02', pdst=ME4), 20, 8)",
        Nothing,
        &["checksum_place"],
    )
    .counted("arp and arp[18:4] = 0xdeadbeef"),
    case(
        "an honest chain of extension headers",
        Both,
        "v6()/IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])/options()/udp()",
        All,
        &["new_flow"],
    ),
    case("an atomic fragment", Both, "v6()/frag(0, False)/udp()", All, &["new_flow"]),
    case(
        "fragments behind destination options",
        Both,
        "[v6()/options()/frag(0, True)/Raw(datagram(48)[:32]), \
          v6()/options()/frag(4, False)/Raw(bytes(16))]",
        All,
        &["fragment"],
    ),
    case(
        "a routing header of type 0",
        Both,
        "[v6()/IPv6ExtHdrRouting(type=0, segleft=1, addresses=[ROUTER6])/udp(), \
          v6()/IPv6ExtHdrRouting(type=0, segleft=0, addresses=[ROUTER6])/udp(), \
          v6()/options()/IPv6ExtHdrRouting(type=0, segleft=1, addresses=[ROUTER6])/udp()]",
        Nothing,
        &["source_route"],
    ),
    case(
        "nine extension headers",
        Both,
        "v6()/options()/options()/options()/options()/options()/options()/options()/options()/options()/udp()",
        Nothing,
        &["extension_headers"],
    ),
    case(
        "unknown extension headers",
        Both,
        "[v6(nh=nh)/Raw(b'\\x11\\0' + bytes(6) + datagram(16)) for nh in (135, 139, 140, 253, 254)]",
        Nothing,
        &["extension_headers"],
    ),
    case(
        "an extension header longer than its packet",
        Both,
        "v6(nh=60)/Raw(b'\\x11\\x09' + bytes(6) + datagram(16))",
        Nothing,
        &["malformed"],
    ),
    case(
        "nested fragment headers",
        Both,
        "[v6()/frag(0, False, 44)/frag(0, False)/udp(), \
          v6()/frag(0, True, 44)/frag(0, True)/Raw(datagram(48)[:32])]",
        Nothing,
        &["extension_headers"],
    ),
    case(
        "nested fragment headers, the outer one with identification 0",
        Both,
        "v6()/frag(0, False, 44, 0)/frag(0, False)/udp()",
        Nothing,
        &["extension_headers"],
    ),
    case(
        "a transport header in the second fragment",
        Both,
        "[f6(0, b'\\x11\\0' + bytes(6), 1, 60), f6(1, datagram(16), 0, 60)]",
        Nothing,
        &["tiny_fragment", "fragment_of_dropped"],
    ),
    case("no next header", Both, "v6(nh=59)/Raw(datagram(16))", Nothing, &[]),
    case(
        "source-routed IPv4, loose and strict",
        Both,
        "[v4(options=[IPOption_LSRR(routers=[ROUTER4])])/udp(), \
          v4(options=[IPOption_SSRR(routers=[ROUTER4])])/udp()]",
        Nothing,
        &["source_route"],
    ),
    case(
        "lengths that contradict each other",
        Both,
        "[v4(ihl=4)/udp(), v4(len=2000)/udp(), v4(len=10)/udp(), v4()/tcp(dataofs=4), \
          v4()/tcp(dataofs=15), v4()/udp(len=4), v4()/udp(len=400), v6(plen=400)/udp(), \
          v6()/udp(len=4)]",
        Nothing,
        &["malformed"],
    ),
    case(
        "TCP flags that no TCP sends together",
        Both,
        "[v4()/tcp(flags) for flags in ('', 'F', 'SF', 'SR', 'FPU', 'SFRPAU')]",
        Nothing,
        &["tcp_flags"],
    ),
    case(
        "tunnels: IP in IP, IPv6 in IP, GRE, ESP",
        Both,
        "[v4()/IP(src=ME4, dst=TO4)/udp(), v4(proto=41)/IPv6(src=ME6, dst=TO6)/udp(), \
          v4()/GRE()/IP()/udp(), v4(proto=50)/Raw(bytes(32))]",
        Nothing,
        &["no_rule"],
    ),
    case("a VLAN tag", Both, "e()/Dot1Q(vlan=5)/ip()/udp()", Nothing, &["vlan"]),
    case("a priority tag (VLAN 0)", Both, "e()/Dot1Q(vlan=0, prio=3)/ip()/udp()", Nothing, &["vlan"]),
    case(
        "two VLAN tags",
        Both,
        "[e()/Dot1Q(vlan=5)/Dot1Q(vlan=6)/ip()/udp(), e()/Dot1AD(vlan=5)/Dot1Q(vlan=6)/ip()/udp()]",
        Nothing,
        &["vlan"],
    ),
    case(
        "unknown EtherTypes: MPLS, PPPoE, EAPOL, loopback, LLDP, 802.3",
        Both,
        "[e(type=kind)/Raw(struct.pack('!H', ID) + bytes(58)) \
          for kind in (0x88b5, 0x8847, 0x8863, 0x888e, 0x9000, 0x88cc, 60)]",
        Nothing,
        &["ether_type"],
    ),
];

/// A flow to UDP port 53, and a flow of the other family.
const FLOW: &str = "v4()/udp()";
const FLOW6: &str = "v6()/udp()";

pub const ERRORS: &[Case] = &[
    case("an ICMP error about a flow", Both, "v4()/quote()", All, &["related"]).after(FLOW),
    case(
        "an ICMP error about a flow, from a router on the way",
        Outside,
        "v4(src=ROUTER4)/quote()",
        All,
        &["related"],
    )
    .after(FLOW),
    case(
        "ICMPv6 errors about a flow",
        Both,
        "[v6()/quote6(error) for error in (ICMPv6DestUnreach(code=4), ICMPv6PacketTooBig(mtu=1280), \
          ICMPv6TimeExceeded(), ICMPv6ParamProblem())]",
        All,
        &["related"],
    )
    .after(FLOW6),
    case(
        "ICMP errors about other ports, addresses, protocols, …",
        Both,
        "[v4()/quote(sport=SPORT + 1), v4()/quote(dport=54), v4()/quote(dst=STRANGER4), \
          v4()/quote(src=NEIGHBOR4, dst=STRANGER4), v4()/quote(transport=TCP), \
          v4()/quote(src=ME4, dst=TO4), v4()/quote(src=ME4, dst=TO4, sport=53, dport=SPORT), \
          v4()/ICMP(type=3, code=3)/Raw(bytes(IP(src=TO4, dst=ME4, proto=17))), \
          v4()/ICMP(type=3, code=3)]",
        Nothing,
        &["no_rule"],
    )
    .after(FLOW),
    case(
        "ICMPv6 errors about other ports, addresses, protocols, …",
        Both,
        "[v6()/quote6(ICMPv6PacketTooBig(mtu=1280), **k) for k in (dict(sport=SPORT + 1), \
          dict(dport=54), dict(dst=ROUTER6), dict(transport=TCP), \
          dict(src=ME6, dst=TO6))] + [v6()/ICMPv6PacketTooBig(mtu=1280)]",
        Nothing,
        &["no_rule"],
    )
    .after(FLOW6),
    case(
        "ICMP redirects",
        Outside,
        "[v4(src=ROUTER4)/ICMP(type=5, code=code, gw=STRANGER4)/IP(src=TO4, dst=ME4)/UDP(sport=SPORT, \
          dport=53) for code in (0, 1)]",
        Nothing,
        &["redirect"],
    )
    .after(FLOW),
    case(
        "ICMP redirects",
        Guest,
        "v4()/ICMP(type=5, code=1, gw=ME4)/IP(src=TO4, dst=ME4)/UDP(sport=SPORT, dport=53)",
        Nothing,
        &["redirect"],
    )
    .after(FLOW),
    case(
        "ICMPv6 redirects",
        Outside,
        "e()/IPv6(src=ROUTER_LL, dst=TO6, hlim=255, fl=ID)/ICMPv6ND_Redirect(tgt=ROUTER_LL, dst=ME6)",
        Nothing,
        &["redirect"],
    ),
    case("ICMPv6 redirects", Neighbor, "nd(ICMPv6ND_Redirect(tgt=ME_LL, dst=TO6))", Nothing, &["redirect"]),
    case(
        "answers that nobody has asked for",
        Both,
        "[v4()/UDP(sport=53, dport=SPORT)/b'answer', v4()/ICMP(type=0), v6()/ICMPv6EchoReply(), \
          v6()/UDP(sport=53, dport=SPORT)/b'answer'] \
          + [v4()/TCP(sport=80, dport=SPORT, flags=flags) \
          for flags in ('SA', 'A', 'R', 'RA', 'FA', 'PA')]",
        Nothing,
        &["no_rule"],
    ),
];
