//! The entry points.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_for_each_map_elem, bpf_jiffies64, bpf_map_delete_elem};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use sg_common::abi::{Flow, Hook, counter_index, explain};
use sg_common::judge::{Environment as _, judge};
use sg_common::packet::Packet;
use sg_common::verdict::Action;

use crate::context::{TcPacket, XdpPacket};
use crate::maps::{Kernel, count, flow_tables};

#[xdp(frags)]
pub fn sgd_xdp_ingress(ctx: XdpContext) -> u32 {
    match filter(&XdpPacket(&ctx), ctx.ingress_ifindex() as u32, Hook::Ingress) {
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
    let packet = TcPacket(ctx);
    match filter(&packet, packet.ifindex(), hook) {
        Action::Allow => NEXT,
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

#[inline(always)]
fn filter<P: Packet>(packet: &P, ifindex: u32, hook: Hook) -> Action {
    let judgement = judge(packet, &Kernel::<false>, ifindex, hook);
    let reason = judgement.verdict.reason;
    count(counter_index(judgement.counters, judgement.direction, reason), packet.len());
    judgement.verdict.action()
}

/// Never attached: the daemon test-runs it to ask what the filter would say. It changes nothing and counts nothing.
#[classifier]
pub fn sgd_explain(ctx: TcContext) -> i32 {
    let packet = TcPacket(&ctx);
    let skb = packet.skb();
    // SAFETY: the context is the one that the kernel passed, here and below.
    let question = unsafe { (*skb).cb[explain::CB_HOOK_REASON] };
    let hook = if question == explain::HOOK_EGRESS { Hook::Egress } else { Hook::Ingress };
    let verdict = judge(&packet, &Kernel::<true>, packet.ifindex(), hook).verdict;
    unsafe {
        (*skb).cb[explain::CB_HOOK_REASON] = verdict.reason as u32;
        (*skb).cb[explain::CB_ADMITTED] = verdict.admitted_by as u32;
        (*skb).cb[explain::CB_STATE] = u32::from(verdict.state);
        (*skb).cb[explain::CB_POLICY] = verdict.policy;
    }
    match verdict.action() {
        Action::Allow => 0,
        Action::Drop => TC_ACT_SHOT as i32,
    }
}

/// Never attached: the daemon test-runs it to learn the kernel's jiffies, which it tells in `cb[0]` and `cb[1]`.
#[classifier]
pub fn sgd_clock(ctx: TcContext) -> i32 {
    let skb = TcPacket(&ctx).skb();
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
    /// Entries that expired before this are deleted.
    before: u64,
    deleted: u64,
}

/// Never attached: the daemon test-runs it to delete flows that are over. Returns how many there were.
///
/// An entry that expired this very moment is left alone for another `cb[0]` jiffies: a packet of the same 5-tuple may be
/// about to put a new flow in its place.
#[classifier]
pub fn sgd_collect(ctx: TcContext) -> i32 {
    let packet = TcPacket(&ctx);
    // SAFETY: the context is the one that the kernel passed.
    let grace = unsafe { (*packet.skb()).cb[0] };
    let Some(moment) = Kernel::<true>.moment() else { return 0 };
    let mut collection = Collection { before: moment.now.saturating_sub(u64::from(grace)), deleted: 0 };
    for table in flow_tables() {
        // SAFETY: the callback has the signature that the kernel calls, and the context outlives the call.
        unsafe {
            bpf_for_each_map_elem(table, collect_one as *mut c_void, (&raw mut collection).cast(), 0);
        }
    }
    collection.deleted as i32
}

unsafe extern "C" fn collect_one(
    table: *mut c_void,
    key: *const c_void,
    flow: *const Flow,
    collection: *mut Collection,
) -> i64 {
    // SAFETY: the kernel passes an element of the table and the context that `sgd_collect` gave it.
    unsafe {
        if (&raw const (*flow).expires).read_volatile() < (*collection).before
            && bpf_map_delete_elem(table, key) == 0
        {
            (*collection).deleted += 1;
        }
    }
    0
}
