//! Packets as XDP and TC hand them over.

use core::hint::black_box;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_xdp_get_buff_len};
use aya_ebpf::programs::{TcContext, XdpContext};
use sg_common::abi::SkBuff;
use sg_common::packet::{Header, Packet};

/// Offsets beyond this are no header's; the bound lets the verifier follow the arithmetic.
const MAX_OFFSET: u32 = 0x3fff;

/// Where a packet's first buffer begins and ends. The context has these as 32-bit fields, which the verifier takes for
/// pointers of 64: read once and kept as words, they are never spilled in half.
struct Linear {
    start: usize,
    end: usize,
}

impl Linear {
    #[inline(always)]
    fn new(start: usize, end: usize) -> Self {
        Self { start: black_box(start), end: black_box(end) }
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        read_linear(self.start, self.end, offset)
    }
}

/// A frame in an XDP program. Drivers keep the headers in the first buffer, so only that one is read.
pub struct XdpPacket {
    linear: Linear,
    /// With all its buffers.
    bytes: u32,
}

impl XdpPacket {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        // SAFETY: the context is the one that the kernel passed.
        let bytes = unsafe { bpf_xdp_get_buff_len(context.ctx) as u32 };
        Self { linear: Linear::new(context.data(), context.data_end()), bytes }
    }
}

impl Packet for XdpPacket {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.bytes
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        self.linear.read(offset)
    }

    #[inline(always)]
    fn has_offloaded_vlan(&self) -> bool {
        // XDP sees frames as they arrived; the EtherType tells.
        false
    }

    #[inline(always)]
    fn pending_checksum(&self) -> Option<u32> {
        // XDP does not see it: `sgd_tc_checksum` looks behind this program.
        None
    }
}

/// A socket buffer in a TC program, with the headers in its first buffer.
pub struct TcPacket {
    skb: *mut __sk_buff,
    linear: Linear,
}

/// Ethernet with a VLAN tag, IPv6, and TCP without options.
const USUAL_HEADERS: usize = 14 + 4 + 40 + 20;
/// What is moved to the first buffer if even the usual headers are not all there.
const PULL: u32 = 256;

impl TcPacket {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        let skb = context.skb.skb;
        let linear = Linear::new(context.data(), context.data_end());
        // Most packets are in the first buffer as a whole, or all their headers are.
        // The number of bytes, and not a comparison of the two, from which the verifier would learn something in one case and not in the
        // other, and follow both through all that comes.
        let at_hand = linear.end.wrapping_sub(linear.start);
        if at_hand >= USUAL_HEADERS || at_hand >= context.len() as usize {
            return Self { skb, linear };
        }
        // Data in page fragments: stacks put headers in front, but nobody has to. A failure leaves the packet as it was,
        // too short for its headers, and it is dropped.
        let _ = context.pull_data(if context.len() < PULL { context.len() } else { PULL });
        Self { skb, linear: Linear::new(context.data(), context.data_end()) }
    }

    /// With what is in the first buffer as it is.
    #[inline(always)]
    pub fn at_hand(context: &TcContext) -> Self {
        Self { skb: context.skb.skb, linear: Linear::new(context.data(), context.data_end()) }
    }

    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.skb
    }

    #[inline(always)]
    pub fn context(&self) -> &__sk_buff {
        // SAFETY: as in `skb`; nobody changes it meanwhile.
        unsafe { &*self.skb }
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // SAFETY: the context is the one that the kernel passed.
        unsafe { (*self.skb).ifindex }
    }
}

impl Packet for TcPacket {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.context().len
    }

    #[inline(always)]
    fn read<H: Header>(&self, offset: u32) -> Option<H> {
        self.linear.read(offset)
    }

    #[inline(always)]
    fn has_offloaded_vlan(&self) -> bool {
        // SAFETY: the context is the one that the kernel passed.
        unsafe { (*self.skb).vlan_present != 0 }
    }

    #[inline(always)]
    fn pending_checksum(&self) -> Option<u32> {
        let place = pending_checksum(self.skb);
        if place == NOT_PENDING { None } else { Some(place as u32) }
    }
}

/// What [`pending_checksum`] returns where none is to be written.
const NOT_PENDING: u64 = u64::MAX;

/// A word of [`SK_BUFF`].
macro_rules! layout {
    ($word:ident) => {
        (&raw const SK_BUFF.$word).read_volatile()
    };
}

/// See [`Packet::pending_checksum`].
#[inline(always)]
fn pending_checksum(skb: *mut __sk_buff) -> u64 {
    // SAFETY: a static is there; the daemon has changed its bytes before the program was loaded, behind the compiler's back.
    if unsafe { layout!(cast) } == 0 {
        return probe_checksum(skb);
    }
    // SAFETY: likewise; and there is a function to call.
    unsafe {
        let skb = cast(skb);
        let summed = at::<u8>(skb, layout!(summed));
        if u32::from(summed) & layout!(summed_mask) != layout!(summed_partial) {
            return NOT_PENDING;
        }
        checksum_place(
            at::<u16>(skb, layout!(csum_start)),
            at::<u16>(skb, layout!(csum_offset)),
            at::<u64>(skb, layout!(head)),
            at::<u64>(skb, layout!(data)),
        )
    }
}

/// The same where each field takes a call. A subprogram: what it reads passes through the stack, of which its callers have none to spare.
#[inline(never)]
fn probe_checksum(skb: *mut __sk_buff) -> u64 {
    // SAFETY: as in `layout!`.
    let layout = unsafe { (&raw const SK_BUFF).read_volatile() };
    if layout.summed_mask == 0 {
        return NOT_PENDING;
    }
    let Some(summed) = probe::<u8>(skb, layout.summed) else { return NOT_PENDING };
    if u32::from(summed) & layout.summed_mask != layout.summed_partial {
        return NOT_PENDING;
    }
    let (Some(start), Some(offset)) =
        (probe::<u16>(skb, layout.csum_start), probe::<u16>(skb, layout.csum_offset))
    else {
        return NOT_PENDING;
    };
    let (Some(head), Some(data)) = (probe::<u64>(skb, layout.head), probe::<u64>(skb, layout.data)) else {
        return NOT_PENDING;
    };
    checksum_place(start, offset, head, data)
}

/// Where in the frame the checksum goes.
#[inline(always)]
fn checksum_place(start: u16, offset: u16, head: u64, data: u64) -> u64 {
    // The sum's beginning counts from the buffer's head, which may lie before the frame. Of 64 bits, although 32 would do: to the
    // verifier these are pointers.
    let before = black_box(data.wrapping_sub(head));
    let place = (u64::from(start) + u64::from(offset)).wrapping_sub(before);
    place & u64::from(u32::MAX)
}

/// The kernel's own structure behind a context.
///
/// # Safety
///
/// [`SkBuff::cast`] must not be 0: only then have the calls been changed.
#[inline(always)]
unsafe fn cast(skb: *mut __sk_buff) -> *const u8 {
    // SAFETY: how helpers are called, by their number.
    let function: unsafe extern "C" fn(*mut __sk_buff) -> *const u8 =
        unsafe { core::mem::transmute(SkBuff::CAST_CALL as usize) };
    // SAFETY: as promised, it is not that helper which is called.
    unsafe { function(skb) }
}

/// Reads a field of the kernel's own structure.
///
/// # Safety
///
/// The field must be there: the verifier looks it up in the kernel's types.
#[inline(always)]
unsafe fn at<T: Copy>(skb: *const u8, offset: u32) -> T {
    // SAFETY: as promised.
    unsafe { skb.add(offset as usize).cast::<T>().read_volatile() }
}

/// Reads a field of the kernel's own structure through a helper. The pointer that a program is called with is that of the `sk_buff`; what
/// the verifier shows as `__sk_buff` it translates access by access.
#[inline(always)]
fn probe<T: Copy>(skb: *mut __sk_buff, offset: u32) -> Option<T> {
    let field = skb.cast::<u8>().wrapping_add(offset as usize);
    // SAFETY: the helper reads any address, or fails.
    unsafe { bpf_probe_read_kernel(field.cast::<T>()) }.ok()
}

/// See [`SkBuff`].
#[unsafe(no_mangle)]
static SK_BUFF: SkBuff = SkBuff::UNKNOWN;

#[inline(always)]
fn read_linear<H: Header>(data: usize, data_end: usize, offset: u32) -> Option<H> {
    // Small headers are read in loops over options and extensions, where the compiler would check one copy of the offset
    // or of the address and use another, which the verifier does not follow.
    let in_loop = size_of::<H>() <= 4;
    let offset = if in_loop { black_box(offset) } else { offset };
    if offset > MAX_OFFSET {
        return None;
    }
    let start = data + offset as usize;
    let start = if in_loop { black_box(start) } else { start };
    if start + size_of::<H>() > data_end {
        return None;
    }
    // SAFETY: the header lies within the packet, as just checked. The pointer may be unaligned: this is deliberate.
    // `read_unaligned` would be compiled to one load a byte; BPF on the machines we support loads unaligned words from
    // packets, and the verifier refuses the program on those that cannot (kernel/bpf/verifier.c, check_ptr_alignment).
    Some(unsafe { (start as *const H).read() })
}
