# Sends the frames that its standard input asks for, one request a line: a number that marks the packets, an expression
# for a list of frames, and what to change about whom they are for. Answers with how many it has sent. The first argument says who the sender is.
import json
import logging
import socket
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import *  # noqa: E402,F403

ME_AND_PEER = json.loads(sys.argv[1])
globals().update(ME_AND_PEER)
ALL_NODES = "33:33:00:00:00:01"


def e(dst=None, src=None, **k):
    return Ether(src=src or ME, dst=dst or PEER, **k)


def ip(**k):
    return IP(**{"src": ME4, "dst": TO4, "id": ID, **k})


def ip6(**k):
    return IPv6(**{"src": ME6, "dst": TO6, "fl": ID, **k})


def v4(**k):
    return e() / ip(**k)


def v6(**k):
    return e() / ip6(**k)


def udp(dport=53, **k):
    return UDP(sport=SPORT, dport=dport, **k) / b"attack!!"


def tcp(flags="S", dport=80, **k):
    return TCP(sport=SPORT, dport=dport, flags=flags, seq=1000, ack=0, **k)


def datagram(n):
    return struct.pack("!HHHH", SPORT, 53, n, 0) + bytes(n - 8)


def segment():
    return bytes(IP(src=ME4, dst=TO4) / tcp("A"))[20:] + b"data"


def f4(offset, data, more, proto=17, **k):
    return v4(frag=offset, flags="MF" if more else 0, proto=proto, **k) / Raw(data)


def frag(offset, more, nh=17, id=None):
    return IPv6ExtHdrFragment(nh=nh, offset=offset, m=int(more), id=ID if id is None else id)


def f6(offset, data, more, nh=17, **k):
    return v6(**k) / frag(offset, more, nh) / Raw(data)


def options():
    return IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])


# Neighbour discovery to everybody on the link.
def nd(message, src=None, hlim=255, between=None):
    network = IPv6(src=src or ME_LL, dst="ff02::1", hlim=hlim, fl=ID)
    return e(ALL_NODES) / (network / between / message if between else network / message)


# The same, in two fragments.
def nd_pieces(message):
    whole = bytes(IPv6(src=ME_LL, dst="ff02::1") / message)[40:]
    return [
        nd(Raw(whole[:24]), between=frag(0, True, 58)),
        nd(Raw(whole[24:]), between=frag(3, False, 58)),
    ]


def na(target, *lladdrs):
    message = ICMPv6ND_NA(tgt=target, R=0, S=0, O=1)
    for lladdr in lladdrs:
        message = message / ICMPv6NDOptDstLLAddr(lladdr=lladdr)
    return message


def ra():
    return ICMPv6ND_RA(routerlifetime=1800) / ICMPv6NDOptPrefixInfo(prefix="2001:db8:666::", prefixlen=64)


def quote(sport=None, dport=53, transport=UDP, **k):
    return ICMP(type=3, code=3) / IP(**{"src": TO4, "dst": ME4, **k}) / transport(sport=sport or SPORT, dport=dport)


def quote6(error, sport=None, dport=53, transport=UDP, **k):
    return error / IPv6(**{"src": TO6, "dst": ME6, **k}) / transport(sport=sport or SPORT, dport=dport)


# A frame as a virtual machine hands it over: the sum from `start` on is to be written `offset` bytes behind that, by
# whoever sends the frame on (struct virtio_net_hdr, include/uapi/linux/virtio_net.h; NEEDS_CSUM).
class offload:
    def __init__(self, frame, start, offset):
        self.bytes = struct.pack("=BBHHHH", 1, 0, 0, 0, start, offset) + bytes(frame).ljust(60, bytes(1))


SOL_PACKET, PACKET_VNET_HDR = 263, 15

line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
line.bind(("eth0", 0))
virtual = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
virtual.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
virtual.bind(("eth0", 0))
print("ready", flush=True)
for request in sys.stdin:
    try:
        ID, frames, peer = json.loads(request)
        globals().update({**ME_AND_PEER, **peer})
        SPORT = 40000 + ID % 20000
        frames = eval(frames)
        for frame in frames if isinstance(frames, list) else [frames]:
            if isinstance(frame, offload):
                virtual.send(frame.bytes)
            else:
                line.send(bytes(frame))
        # Everybody may ask for a neighbour: once this has arrived, so has all that was sent before it.
        line.send(bytes(e("ff:ff:ff:ff:ff:ff") / ARP(hwsrc=ME, psrc=FENCE4, pdst=f"192.0.{ID >> 8}.{ID & 255}")))
        print("done", flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), flush=True)
