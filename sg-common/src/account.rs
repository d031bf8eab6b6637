//! Packets, counted flow by flow, while somebody wants to know.
//!
//! Counts are kept apart from the entries of flows. An entry goes when its flow is pushed out, takes another's place or
//! becomes live, on whatever CPU, and what another CPU adds to it in that moment would be lost, or added to the flow that has
//! the memory next. An account has its flow's key and stays through all of this, until the collector finds that no flow
//! has the key any more. So it also counts what has no flow: what is dropped, by reason; ICMP errors, resets, and pieces that
//! overtake their first.
//!
//! Numbers only ever grow, by atomic additions. What was recorded of them is a second set of numbers, which the collector alone
//! writes; a record is the difference, so whatever is added meanwhile is in that record or in the next, and in one of them.
//! Only deletion could lose a packet: one that has found the account just before and adds to it just after. An account is
//! deleted when its flow is over and no packet came for a second, so that is a packet which comes in just that moment.
//!
//! Interfaces have shares of the accounts, and what is dropped may have a quarter of a share: nobody from outside, whose
//! packets are dropped, can take the room of what passes.

use crate::abi::{
    ACCOUNT_AUDIT, ACCOUNT_ORIGIN_OUTBOUND, ACCOUNT_REASON_SHIFT, Account, Direction, FLAG_AUDIT,
    FLOW_ORIGIN_OUTBOUND, FlowPorts,
};
use crate::conntrack::Insertion;
use crate::family::{V4, V6};
use crate::judge::{At, Scratch, Tables};
use crate::packet::{ReadIp, zeroes};
use crate::verdict::{FIRST_DROP, Reason, Verdict};

/// A packet, as an account counts it.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    pub direction: Direction,
    /// Of the IP packet.
    pub bytes: u32,
    /// Jiffies.
    pub now: u64,
    pub tcp_flags: u8,
}

/// The reasons whose packets are counted, as bits of their numbers: whatever rules or flows let pass, and all to drop for.
const COUNTED: u64 = 1 << Reason::Established as u64
    | 1 << Reason::NewFlow as u64
    | 1 << Reason::RuleOnly as u64
    | 1 << Reason::Related as u64
    | 1 << Reason::Fragment as u64
    | 1 << Reason::EarlyFragment as u64
    | u64::MAX << FIRST_DROP;

/// Whether a packet with this verdict is counted. What the baseline passes is not: it is the network's own talk.
#[inline(always)]
const fn is_counted(verdict: Verdict) -> bool {
    COUNTED >> (verdict.reason_number() & 63) & 1 != 0
}

/// Counts a packet of a family, 4 or 6; one of none, 0, is of no flow.
#[inline(always)]
pub fn of_family<T: Tables<V4> + Tables<V6>>(tables: &T, at: &At<'_>, family: u32, verdict: Verdict) {
    if family == 4 {
        add::<V4, T>(tables, at, verdict);
    } else if family == 6 {
        add::<V6, T>(tables, at, verdict);
    }
}

#[inline(never)]
fn add<F: ReadIp, T: Tables<F>>(tables: &T, at: &At<'_>, verdict: Verdict) {
    let Some(scratch) = tables.scratch() else { return };
    // What cannot be read is of no flow.
    if !is_counted(verdict) || scratch.network == 0 {
        return;
    }
    let mut ports = scratch.transport.ports;
    if scratch.ip.piece.is_later() {
        // Those of its first fragment; before that one has come it has none.
        let known = scratch.datagram.ports;
        ports = FlowPorts { local: (known >> 16) as u16, remote: known as u16 };
    }
    let (local, remote) = scratch.ip.local_and_remote(at.direction());
    let flow = F::flow_key(at.zone_protocol(scratch.ip.protocol), local, remote, ports);
    let dropped = dropped(at, verdict);
    scratch.account = F::account_key(flow, dropped);
    let counted = Counted {
        direction: at.direction(),
        bytes: scratch.ip.end.wrapping_sub(scratch.network),
        now: at.now,
        tcp_flags: scratch.transport.seen.flags,
    };
    if tables.add_to_account(&scratch.account, &counted) {
        return;
    }
    // Of a flow that was there before anybody counted. Here, as the stack of `open` has no room for a look-up.
    let is_known = verdict.reason_number() == Reason::Established as u32;
    let known = if is_known { tables.flow(&scratch.key) } else { None };
    let outbound = matches!(at.direction(), Direction::Outbound);
    let from_guest = known.map_or(outbound, |flow| flow.flags() & FLOW_ORIGIN_OUTBOUND != 0);
    open::<F, T>(tables, at, scratch, verdict, if from_guest { ACCOUNT_ORIGIN_OUTBOUND } else { 0 });
}

/// The part of the key that tells what is dropped from what passes.
#[inline(always)]
const fn dropped(at: &At<'_>, verdict: Verdict) -> u32 {
    let reason = verdict.reason_number();
    if reason < FIRST_DROP {
        return 0;
    }
    reason << ACCOUNT_REASON_SHIFT | if at.half.flags & FLAG_AUDIT != 0 { ACCOUNT_AUDIT } else { 0 }
}

/// Opens an account with its first packet.
#[inline(never)]
fn open<F: ReadIp, T: Tables<F>>(
    tables: &T,
    at: &At<'_>,
    scratch: &Scratch<F>,
    verdict: Verdict,
    origin: u32,
) {
    let row = at.interface.row;
    let dropped = dropped(at, verdict);
    let one = if dropped == 0 { 1 } else { 1 << 32 };
    let Some((before, limit)) = tables.accounts(row, one) else { return };
    let room = if dropped == 0 {
        before & 0xffff_ffff < u64::from(limit - limit / 4)
    } else {
        before >> 32 < u64::from(limit / 4)
    };
    let outbound = matches!(at.direction(), Direction::Outbound);
    let counted = Counted {
        direction: at.direction(),
        bytes: scratch.ip.end.wrapping_sub(scratch.network),
        now: at.now,
        tcp_flags: scratch.transport.seen.flags,
    };
    if room {
        let (inbound, outbound) = if outbound { (0, 1) } else { (1, 0) };
        let bytes = u64::from(counted.bytes);
        let account = Account {
            packets: [inbound, outbound],
            bytes: [inbound * bytes, outbound * bytes],
            recorded_packets: zeroes(),
            recorded_bytes: zeroes(),
            first: at.now,
            last: at.now,
            policy: verdict.policy(),
            row,
            tcp_flags: u32::from(counted.tcp_flags) << (8 * outbound as u32),
            kind: verdict.reason_number() << ACCOUNT_REASON_SHIFT | (dropped & ACCOUNT_AUDIT) | origin,
        };
        match tables.open_account(&scratch.account, &account) {
            Insertion::Done => return,
            // Another CPU was faster with a packet of the same flow.
            Insertion::Exists if tables.add_to_account(&scratch.account, &counted) => {
                tables.accounts(row, one.wrapping_neg());
                return;
            }
            Insertion::Exists | Insertion::Full => {}
        }
    }
    tables.accounts(row, one.wrapping_neg());
    tables.count_unrecorded(row);
}
