//! The entry points.

#![expect(clippy::needless_pass_by_value, reason = "what aya's macros call them with")]

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::helpers::{bpf_jiffies64, bpf_redirect};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use sg_common::abi::{EVENT_BEHIND_XDP, EVENT_EGRESS, Hook, explain, row_of};
use sg_common::checksum::check;
use sg_common::forward::forward;
use sg_common::judge::{Environment as _, Judgement, Outcome, judge};
use sg_common::packet::Packet;
use sg_common::verdict::Action;

use crate::context::{TcPacket, XdpPacket};
use crate::events::{Source, tell};
use crate::maps::{Kernel, count, is_port};

#[xdp(frags)]
pub fn sgd_xdp_ingress(ctx: XdpContext) -> u32 {
    // SAFETY: the context is the one that the kernel passed.
    let context = unsafe { &*ctx.ctx };
    let act = |judgement: &Judgement| match judgement.action() {
        Action::Allow => XDP_PASS,
        Action::Drop => XDP_DROP,
    };
    filter(&XdpPacket::new(&ctx), context, ctx.ingress_ifindex() as u32, Hook::Ingress, act)
}

#[classifier]
pub fn sgd_tc_ingress(ctx: TcContext) -> i32 {
    filter_tc(&ctx, Hook::Ingress)
}

#[classifier]
pub fn sgd_tc_egress(ctx: TcContext) -> i32 {
    filter_tc(&ctx, Hook::Egress)
}

/// Behind [`sgd_xdp_ingress`], which does not see where a checksum is still to be written.
#[classifier]
pub fn sgd_tc_checksum(ctx: TcContext) -> i32 {
    let packet = TcPacket::new(&ctx);
    let Some(judgement) = check(&packet, &Kernel::<false>, packet.ifindex(), Hook::Ingress) else {
        return NEXT;
    };
    count(judgement.counter(), packet.len());
    // XDP has counted it too, as passed.
    count(judgement.counted_twice(), packet.len());
    tell(packet.context(), &judgement, EVENT_BEHIND_XDP);
    match judgement.action() {
        Action::Allow => NEXT,
        Action::Drop => TC_ACT_SHOT,
    }
}

/// What TC does with an allowed packet: go on to the programs and filters behind ours.
const NEXT: i32 = TC_ACT_UNSPEC;

#[must_use = "a verdict that nobody acts on is a packet that passes"]
#[inline(always)]
fn filter_tc(ctx: &TcContext, hook: Hook) -> i32 {
    let packet = TcPacket::new(ctx);
    let act = |judgement: &Judgement| match judgement.action() {
        Action::Allow if matches!(hook, Hook::Ingress) && is_port(judgement.row()) => {
            hand_on(ctx, judgement.outcome)
        }
        Action::Allow => NEXT,
        Action::Drop => TC_ACT_SHOT,
    };
    filter(&packet, packet.context(), packet.ifindex(), hook, act)
}

/// The fast path. `index`: of the counter of packets that go this way. A subprogram: what the verdict needed of the stack is free
/// again.
#[inline(never)]
fn hand_on(ctx: &TcContext, outcome: Outcome) -> i32 {
    let Some(index) = outcome.established() else { return NEXT };
    let (packet, kernel) = (TcPacket::at_hand(ctx), Kernel::<false>);
    let from = (row_of(index), packet.ifindex());
    // SAFETY: the context is the one that the kernel passed.
    let segments = unsafe { (*packet.skb()).gso_size } != 0;
    let now = || kernel.moment().map(|moment| moment.now);
    match forward(&packet, &kernel, from, segments, now) {
        None => NEXT,
        Some(device) => {
            count(index, packet.len());
            // To the device's egress, whose program judges it.
            // SAFETY: the helper has no preconditions.
            unsafe { bpf_redirect(device, 0) as i32 }
        }
    }
}

/// Judges, counts and tells, and then acts.
#[must_use = "a verdict that nobody acts on is a packet that passes"]
#[inline(always)]
fn filter<P: Packet, C: Source, R>(
    packet: &P,
    context: &C,
    ifindex: u32,
    hook: Hook,
    act: impl FnOnce(&Judgement) -> R,
) -> R {
    judge(packet, &Kernel::<false>, ifindex, hook, |judgement| {
        count(judgement.counter(), packet.len());
        tell(context, judgement, if matches!(hook, Hook::Egress) { EVENT_EGRESS } else { 0 });
        act(judgement)
    })
}

/// Never attached: the daemon test-runs it to ask what the filter would say. It changes nothing and counts nothing.
#[classifier]
pub fn sgd_explain(ctx: TcContext) -> i32 {
    let packet = TcPacket::new(&ctx);
    let skb = packet.skb();
    // SAFETY: the context is the one that the kernel passed.
    let question = unsafe { (*skb).cb[explain::CB_HOOK_REASON] };
    let hook = if question == explain::HOOK_EGRESS { Hook::Egress } else { Hook::Ingress };
    let judgement = judge(&packet, &Kernel::<true>, packet.ifindex(), hook, |judgement| *judgement);
    let verdict = judgement.verdict;
    // SAFETY: the same context.
    unsafe {
        (*skb).cb[explain::CB_HOOK_REASON] = verdict.reason_number();
        (*skb).cb[explain::CB_ADMITTED] = verdict.admitted_by();
        (*skb).cb[explain::CB_STATE] = u32::from(verdict.state());
        (*skb).cb[explain::CB_POLICY] = verdict.policy();
        (*skb).cb[explain::CB_AUDIT] = u32::from(judgement.is_audited());
    }
    match judgement.action() {
        Action::Allow => 0,
        Action::Drop => TC_ACT_SHOT,
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
