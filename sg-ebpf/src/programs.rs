//! The entry points.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_for_each_map_elem, bpf_jiffies64, bpf_map_delete_elem};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{RawTracePointContext, TcContext, XdpContext};
use sg_common::abi::{FLOW_HALF_OPEN, Flow, Hook, explain};
use sg_common::judge::{Environment as _, judge};
use sg_common::packet::Packet;
use sg_common::verdict::Action;

use crate::context::{TcPacket, XdpPacket};
use crate::maps::{Kernel, count, flow_tables, share_zone};

#[xdp(frags)]
pub fn sgd_xdp_ingress(ctx: XdpContext) -> u32 {
    match filter(&XdpPacket::new(&ctx), ctx.ingress_ifindex() as u32, Hook::Ingress) {
        Action::Allow => XDP_PASS,
        Action::Drop => XDP_DROP,
    }
}

#[classifier]
pub fn sgd_tc_ingress(ctx: TcContext) -> i32 {
    filter_tc(&ctx, Hook::Ingress)
}

#[classifier]
pub fn sgd_tc_egress(ctx: TcContext) -> i32 {
    filter_tc(&ctx, Hook::Egress)
}

/// What TC does with an allowed packet: go on to the programs and filters behind ours.
const NEXT: i32 = TC_ACT_UNSPEC;

#[inline(always)]
fn filter_tc(ctx: &TcContext, hook: Hook) -> i32 {
    let packet = TcPacket::new(ctx);
    match filter(&packet, packet.ifindex(), hook) {
        Action::Allow => NEXT,
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

#[inline(always)]
fn filter<P: Packet>(packet: &P, ifindex: u32, hook: Hook) -> Action {
    let judgement = judge(packet, &Kernel::<false>, ifindex, hook);
    count(judgement.counter(), packet.len());
    judgement.action()
}

/// Never attached: the daemon test-runs it to ask what the filter would say. It changes nothing and counts nothing.
#[classifier]
pub fn sgd_explain(ctx: TcContext) -> i32 {
    let packet = TcPacket::new(&ctx);
    let skb = packet.skb();
    // SAFETY: the context is the one that the kernel passed, here and below.
    let question = unsafe { (*skb).cb[explain::CB_HOOK_REASON] };
    let hook = if question == explain::HOOK_EGRESS { Hook::Egress } else { Hook::Ingress };
    let judgement = judge(&packet, &Kernel::<true>, packet.ifindex(), hook);
    let verdict = judgement.verdict;
    unsafe {
        (*skb).cb[explain::CB_HOOK_REASON] = verdict.reason_number();
        (*skb).cb[explain::CB_ADMITTED] = verdict.admitted_by();
        (*skb).cb[explain::CB_STATE] = u32::from(verdict.state());
        (*skb).cb[explain::CB_POLICY] = verdict.policy();
        (*skb).cb[explain::CB_AUDIT] = u32::from(judgement.is_audited());
    }
    match judgement.action() {
        Action::Allow => 0,
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

/// Never attached: the daemon test-runs it to learn the kernel's jiffies, which it tells in `cb[0]` and `cb[1]`.
#[classifier]
pub fn sgd_clock(ctx: TcContext) -> i32 {
    let skb = TcPacket::new(&ctx).skb();
    // SAFETY: the helper has no preconditions; the context is the one that the kernel passed.
    unsafe {
        let jiffies = bpf_jiffies64();
        (*skb).cb[0] = jiffies as u32;
        (*skb).cb[1] = (jiffies >> 32) as u32;
    }
    0
}

/// What the collector's callback knows and tells.
#[repr(C)]
struct Collection {
    /// Entries that expired before this are deleted …
    before: u64,
    /// … and all entries of this zone, unless it is 0.
    zone: u32,
    deleted: u32,
}

/// Never attached: the daemon test-runs it to delete flows that are over. Returns how many there were.
///
/// An entry that expired this very moment is left alone for another `arg(0)` jiffies: a packet of the same 5-tuple may be
/// about to put a new flow in its place. `arg(1)` is a zone to empty, or 0.
///
/// A walk over a million flows takes long. So this is no classifier, of which a test run holds up soft interrupts, and
/// with them every packet that the CPU should handle; of a raw tracepoint's program it does not (net/bpf/test_run.c).
// By hand, as aya's macro throws away what the program returns.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp")]
pub fn sgd_collect(ctx: *mut c_void) -> u32 {
    let ctx = RawTracePointContext::new(ctx);
    let (grace, zone): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    let zone = zone as u32;
    let Some(moment) = Kernel::<true>.moment() else { return 0 };
    let before = moment.now.saturating_sub(grace);
    let mut collection = Collection { before, zone, deleted: 0 };
    for table in flow_tables() {
        // SAFETY: the callback has the signature that the kernel calls, and the context outlives the call.
        unsafe {
            bpf_for_each_map_elem(table, collect_one as *mut c_void, (&raw mut collection).cast(), 0);
        }
    }
    collection.deleted
}

unsafe extern "C" fn collect_one(
    table: *mut c_void,
    key: *const u32,
    flow: *const Flow,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it. Keys of both
    // families begin with `zone << 8 | protocol`.
    unsafe {
        let expired = (&raw const (*flow).expires).read_volatile() < (*collection).before;
        let zone = key.read() >> 8;
        let purged = (*collection).zone != 0 && zone == (*collection).zone;
        let half_open = (&raw const (*flow).flags).read_volatile() & FLOW_HALF_OPEN != 0;
        let row = (&raw const (*flow).place).read_volatile();
        if (expired || purged) && bpf_map_delete_elem(table, key.cast()) == 0 {
            (*collection).deleted += 1;
            if !half_open && share_zone(row) == zone {
                Kernel::<true>.add_live(row, -1);
            }
        }
    }
    0
}
