//! Guests that pretend to be somebody else, and honest ones that look like them. In Python; see sender.py for the words.

use super::cases::{
    By::{Guest, Neighbor, Outside},
    Case, case,
};
use super::table::Through::{All, Nothing};

/// Where a guest pretends to be somebody else.
pub const IDENTITY: &[Case] = &[
    case(
        "another's IPv4 source: router, neighbour, nobody, loopback, …",
        Guest,
        "[v4(src=src)/udp() for src in (ROUTER4, NEIGHBOR4, STRANGER4, '0.0.0.0', '127.0.0.1', \
          '255.255.255.255')]",
        Nothing,
        &["source_address"],
    ),
    case(
        "another's IPv6 source: router, its link-local, neighbour, …",
        Guest,
        "[v6(src=src)/udp() for src in (ROUTER6, ROUTER_LL, NEIGHBOR6, '::', 'ff02::1')]",
        Nothing,
        &["source_address"],
    ),
    case(
        "another's source in a later fragment",
        Guest,
        "f4(4, bytes(16), 0, src=NEIGHBOR4)",
        Nothing,
        &["source_address"],
    ),
    case(
        "another's hardware address",
        Guest,
        "e(src='52:54:00:00:66:66')/ip()/udp()",
        Nothing,
        &["source_mac"],
    ),
    case(
        "another's source to a neighbour",
        Neighbor,
        "e(NEIGHBOR)/IP(src=ROUTER4, dst=NEIGHBOR4, id=ID)/udp()",
        Nothing,
        &["source_address"],
    ),
    case(
        "the guest's own address from outside",
        Outside,
        "[v4(src=TO4)/tcp(dport=22), v4(src=TO4)/udp(54)]",
        Nothing,
        &["no_rule"],
    ),
    case(
        "ARP for the router's address",
        Neighbor,
        "[e('ff:ff:ff:ff:ff:ff')/ARP(op=op, hwsrc=ME, psrc=ROUTER4, pdst=ROUTER4) for op in (1, 2)] \
          + [e(NEIGHBOR)/ARP(op=2, hwsrc=ME, psrc=ROUTER4, hwdst=NEIGHBOR, pdst=NEIGHBOR4)]",
        Nothing,
        &["arp_spoof"],
    )
    .counted("arp and arp[14:4] = 0x0a000001"),
    case(
        "ARP for its own address with another's hardware address",
        Neighbor,
        "e('ff:ff:ff:ff:ff:ff')/ARP(op=2, hwsrc='de:ad:be:ef:00:01', psrc=ME4, pdst=ME4)",
        Nothing,
        &["arp_spoof"],
    )
    .counted("arp and ether[22:4] = 0xdeadbeef"),
    case("an honest neighbour advertisement", Neighbor, "nd(na(ME6, ME))", All, &["neighbor_discovery"]),
    case(
        "a neighbour advertisement for the router",
        Neighbor,
        "[nd(na(ROUTER6, ME)), nd(na(ROUTER6, ME), between=options())]",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "a neighbour advertisement for the router's link-local",
        Neighbor,
        "[nd(na(ROUTER_LL, ME)), nd(na(ROUTER_LL, ME), src=ROUTER_LL)]",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "a neighbour advertisement with another's hardware address",
        Neighbor,
        "nd(na(ME6, 'de:ad:be:ef:00:01'))",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "a neighbour advertisement with another's in its second option",
        Neighbor,
        "[nd(na(ME6, ME, 'de:ad:be:ef:00:01')), \
          nd(ICMPv6ND_NA(tgt=ME6, \
          R=0)/ICMPv6NDOptMTU()/ICMPv6NDOptDstLLAddr(lladdr='de:ad:be:ef:00:01'))]",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "solicitations with another's in their second option",
        Neighbor,
        "[nd(message/ICMPv6NDOptSrcLLAddr(lladdr=ME)/ICMPv6NDOptSrcLLAddr(lladdr='de:ad:be:ef:00:01')) \
          for message in (ICMPv6ND_NS(tgt=NEIGHBOR6), ICMPv6ND_RS())]",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "neighbour discovery that a router has forwarded",
        Neighbor,
        "nd(na(ME6, ME), hlim=64)",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "neighbour discovery in fragments",
        Neighbor,
        "nd_pieces(na(ROUTER6, ME)) + [nd(na(ROUTER6, ME), between=frag(0, False, 58))]",
        Nothing,
        &["neighbor_spoof", "fragment_of_dropped"],
    ),
    case(
        "router advertisements: plain, behind options, in fragments",
        Neighbor,
        "[nd(ra()), nd(ra(), between=IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))])), nd(ra(), \
          between=options()), nd(ra(), between=frag(0, False, 58)), \
          e(NEIGHBOR)/IPv6(src=ME_LL, dst=NEIGHBOR6, hlim=255, fl=ID)/ra()] + nd_pieces(ra())",
        Nothing,
        &["router_advertisement", "neighbor_spoof", "fragment_of_dropped"],
    ),
    case("the configured router's advertisement", Outside, "nd(ra())", All, &["neighbor_discovery"]),
    case(
        "another router's advertisement",
        Outside,
        "nd(ra(), src='fe80::bad')",
        Nothing,
        &["router_advertisement"],
    ),
    case(
        "an honest ARP announcement",
        Neighbor,
        "e('ff:ff:ff:ff:ff:ff')/ARP(op=1, hwsrc=ME, psrc=ME4, pdst=ME4)",
        All,
        &["arp"],
    )
    .counted("arp and arp[14:4] = arp[24:4]"),
    case(
        "an honest multicast listener report",
        Neighbor,
        "e('33:33:00:00:00:16')/IPv6(src=ME_LL, dst='ff02::16', hlim=1, \
          fl=ID)/IPv6ExtHdrHopByHop(options=[RouterAlert()])/ICMPv6MLReport2()",
        All,
        &["neighbor_discovery"],
    ),
    case(
        "a multicast listener report of another",
        Neighbor,
        "e('33:33:00:00:00:16')/IPv6(src=ROUTER_LL, dst='ff02::16', hlim=1, \
          fl=ID)/IPv6ExtHdrHopByHop(options=[RouterAlert()])/ICMPv6MLReport2()",
        Nothing,
        &["source_address"],
    ),
    case(
        "DHCP: a client with another's address",
        Guest,
        "v4(src=NEIGHBOR4)/UDP(sport=68, dport=67)/b'data'",
        Nothing,
        &["source_address"],
    ),
    case(
        "DHCP: a client asks everybody",
        Guest,
        "e('ff:ff:ff:ff:ff:ff')/IP(src='0.0.0.0', dst='255.255.255.255', id=ID)/UDP(sport=68, \
          dport=67)/BOOTP(chaddr=bytes(6))/DHCP(options=[('message-type', 'discover'), 'end'])",
        All,
        &["dhcp"],
    ),
    case(
        "DHCP as a way out: to a server that is not configured",
        Guest,
        "[v4()/UDP(sport=68, dport=67)/b'data', v4(src='0.0.0.0')/UDP(sport=68, dport=67)/b'data']",
        Nothing,
        &["no_rule", "source_address"],
    ),
    case(
        "DHCP: a guest serves",
        Neighbor,
        "[e('ff:ff:ff:ff:ff:ff')/IP(src=ME4, dst='255.255.255.255', id=ID)/UDP(sport=67, \
          dport=68)/BOOTP(op=2), \
          e(NEIGHBOR)/IP(src=ME4, dst=NEIGHBOR4, id=ID)/UDP(sport=1067, dport=68)/BOOTP(op=2)]",
        Nothing,
        &["dhcp_server"],
    ),
    case(
        "DHCPv6: a client asks everybody",
        Guest,
        "e('33:33:00:01:00:02')/IPv6(src=ME_LL, dst='ff02::1:2', fl=ID)/UDP(sport=546, \
          dport=547)/DHCP6_Solicit()",
        All,
        &["dhcp"],
    ),
    case(
        "DHCPv6 as a way out: to a server that is not configured",
        Guest,
        "v6()/UDP(sport=546, dport=547)/b'data'",
        Nothing,
        &["no_rule"],
    ),
    case(
        "DHCPv6: a guest serves",
        Neighbor,
        "e(NEIGHBOR)/IPv6(src=ME_LL, dst=NEIGHBOR6, fl=ID)/UDP(sport=547, dport=546)/DHCP6_Advertise()",
        Nothing,
        &["dhcp_server"],
    ),
];

/// With `link_local: any`, which lets a guest use any link-local address but its router's.
pub const ANY_LINK_LOCAL: &[Case] = &[
    case(
        "any link-local address of its own",
        Neighbor,
        "nd(na('fe80::1234', ME), src='fe80::1234')",
        All,
        &["neighbor_discovery"],
    ),
    case(
        "the router's link-local in an advertisement",
        Neighbor,
        "nd(na(ROUTER_LL, ME), src='fe80::1234')",
        Nothing,
        &["neighbor_spoof"],
    ),
    case(
        "the router's link-local as a source",
        Neighbor,
        "nd(na(ME6, ME), src=ROUTER_LL)",
        Nothing,
        &["neighbor_spoof", "source_address"],
    ),
    case(
        "the router's link-local as a source of data",
        Guest,
        "v6(src=ROUTER_LL)/udp()",
        Nothing,
        &["source_address"],
    ),
];

/// By a guest with an IPv4 address only.
pub const OTHER_FAMILY: &[Case] = &[
    case(
        "an IPv6 source of a guest with IPv4 addresses only",
        Guest,
        "v6()/udp()",
        Nothing,
        &["source_address"],
    ),
    case("an advertisement for it", Neighbor, "nd(na(ME6, ME))", Nothing, &["neighbor_spoof"]),
];
