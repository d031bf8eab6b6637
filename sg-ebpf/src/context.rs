//! Packets as XDP and TC hand them over.

use core::mem::MaybeUninit;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_skb_load_bytes, bpf_xdp_get_buff_len};
use aya_ebpf::programs::{TcContext, XdpContext};
use sg_common::packet::{Header, Packet};

/// Offsets beyond this are no header's; the bound lets the verifier follow the arithmetic.
const MAX_OFFSET: u32 = 0x3fff;

/// A frame in an XDP program. Drivers keep the headers in the first buffer, so only that one is read.
pub struct XdpPacket<'a>(pub &'a XdpContext);

impl Packet for XdpPacket<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed.
        unsafe { bpf_xdp_get_buff_len(self.0.ctx) as u32 }
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        read_linear(self.0.data(), self.0.data_end(), offset)
    }

    #[inline(always)]
    fn has_offloaded_vlan(&self) -> bool {
        // XDP sees frames as they arrived; the EtherType tells.
        false
    }
}

/// A socket buffer in a TC program.
pub struct TcPacket<'a>(pub &'a TcContext);

impl TcPacket<'_> {
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.0.as_ptr().cast()
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed.
        unsafe { (*self.skb()).ifindex }
    }
}

impl Packet for TcPacket<'_> {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.0.len()
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        if let Some(header) = read_linear(self.0.data(), self.0.data_end(), offset) {
            return Some(header);
        }
        // The header may lie in a page fragment.
        let mut header = MaybeUninit::<H>::uninit();
        // SAFETY: the buffer has the size that is passed.
        let result = unsafe {
            bpf_skb_load_bytes(self.skb().cast(), offset, header.as_mut_ptr().cast(), size_of::<H>() as u32)
        };
        // SAFETY: on success the helper has written every byte, and any bytes are a header.
        if result == 0 { Some(unsafe { header.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn has_offloaded_vlan(&self) -> bool {
        // SAFETY: the context is the one that the kernel passed.
        unsafe { (*self.skb()).vlan_present != 0 }
    }
}

#[inline(always)]
fn read_linear<H: Header>(data: usize, data_end: usize, offset: u32) -> Option<H> {
    if offset > MAX_OFFSET {
        return None;
    }
    let start = data + offset as usize;
    if start + size_of::<H>() > data_end {
        return None;
    }
    // SAFETY: the header lies within the packet, as just checked. The pointer may be unaligned: this is deliberate.
    // `read_unaligned` would be compiled to one load a byte; BPF on the machines we support loads unaligned words from
    // packets, and the verifier refuses the program on those that cannot (kernel/bpf/verifier.c, check_ptr_alignment).
    Some(unsafe { (start as *const H).read() })
}
