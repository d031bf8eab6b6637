//! Test runs of the loaded programs: questions that change nothing.

use std::borrow::Cow;
use std::mem::offset_of;

use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use sg_common::abi::{Hook, explain, program};
use sg_common::conntrack::State;
use sg_common::verdict::{Action, Reason};

use super::{Kernel, KernelError};

/// `struct __sk_buff`, include/uapi/linux/bpf.h, as far as test runs read and write it.
#[derive(Clone, Copy)]
#[repr(C)]
struct SkBuff {
    before_cb: [u32; 10],
    ifindex: u32,
    tc_index: u32,
    cb: [u32; 5],
    behind_cb: [u32; 31],
}

const _: () = assert!(size_of::<SkBuff>() == 192 && offset_of!(SkBuff, cb) == 48);

/// `struct xdp_md`, include/uapi/linux/bpf.h.
#[derive(Clone, Copy)]
#[repr(C)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// Which of the programs that filter is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunHook {
    /// The device must have an XDP program attached: only then does the kernel take it for a context.
    XdpIngress,
    /// The program behind XDP that looks where a checksum goes.
    BehindXdp,
    TcIngress,
    TcEgress,
}

/// What the loaded program says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub reason: Reason,
    /// Whether a CIDR (1) or a group (2) rule admits the packet as the first of a flow; 0 otherwise.
    pub admitted_by: u32,
    pub state: Option<State>,
    pub policy: u32,
    /// There is a reason to drop the packet, and it passes all the same.
    pub audit: bool,
}

impl Answer {
    pub fn action(&self) -> Action {
        if self.audit { Action::Allow } else { self.reason.action() }
    }
}

impl Kernel {
    /// Asks the loaded program what it would do with a frame at a hook of a device of this network namespace. Nothing
    /// is changed and nothing is counted.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the test run: the device is gone or the frame is shorter than an Ethernet header.
    pub fn explain(&mut self, ifindex: u32, hook: Hook, frame: &[u8]) -> Result<Answer, KernelError> {
        let hook = match hook {
            Hook::Ingress => explain::HOOK_INGRESS,
            Hook::Egress => explain::HOOK_EGRESS,
        };
        let frame = runnable(frame);
        let (_, cb) = self.test_run(program::EXPLAIN, ifindex, &frame, [hook, 0, 0, 0, 0])?;
        let reason = Reason::from_number(cb[explain::CB_HOOK_REASON])
            .ok_or(KernelError::Missing { name: program::EXPLAIN })?;
        Ok(Answer {
            reason,
            admitted_by: cb[explain::CB_ADMITTED],
            state: u8::try_from(cb[explain::CB_STATE]).ok().and_then(State::from_number),
            policy: cb[explain::CB_POLICY],
            audit: cb[explain::CB_AUDIT] != 0,
        })
    }

    /// Runs the real program on a frame as if it had come by at a device of this network namespace: flows and counters
    /// change. For tests.
    ///
    /// # Errors
    ///
    /// If the kernel refuses the test run.
    pub fn run_frame(&mut self, hook: RunHook, ifindex: u32, frame: &[u8]) -> Result<Action, KernelError> {
        let name = match hook {
            RunHook::TcIngress => program::TC_INGRESS,
            RunHook::TcEgress => program::TC_EGRESS,
            RunHook::BehindXdp => program::TC_CHECKSUM,
            RunHook::XdpIngress => return self.run_xdp(ifindex, frame),
        };
        let (result, _) = self.test_run(name, ifindex, frame, [0; 5])?;
        // TC_ACT_SHOT, include/uapi/linux/pkt_cls.h.
        Ok(if result == 2 { Action::Drop } else { Action::Allow })
    }

    fn run_xdp(&mut self, ifindex: u32, frame: &[u8]) -> Result<Action, KernelError> {
        let name = program::XDP_INGRESS;
        let context = XdpMd {
            data: 0,
            data_end: frame.len() as u32,
            data_meta: 0,
            ingress_ifindex: ifindex,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(bytes_of(&context)),
            ..TestRunOptions::new()
        };
        let result = self
            .programs
            .xdp(program::XDP_INGRESS)?
            .test_run(options)
            .map_err(|source| KernelError::Program { name, source })?;
        // XDP_DROP, include/uapi/linux/bpf.h.
        Ok(if result.return_value == 1 { Action::Drop } else { Action::Allow })
    }

    pub(super) fn raw_jiffies(&mut self) -> Result<u64, KernelError> {
        let (_, cb) = self.test_run(program::CLOCK, 0, &[0; 64], [0; 5])?;
        Ok(u64::from(cb[0]) | (u64::from(cb[1]) << 32))
    }

    fn test_run(
        &mut self,
        name: &'static str,
        ifindex: u32,
        frame: &[u8],
        cb: [u32; 5],
    ) -> Result<(u32, [u32; 5]), KernelError> {
        run(self.programs.classifier(name)?, name, ifindex, frame, cb)
    }
}

/// The kernel refuses a test run of a frame that ends before its IP header does (net/bpf/test_run.c, `bpf_prog_test_run_skb`).
/// Instead, one with a whole header of no version: that is malformed too, for the next thing that is looked at.
fn runnable(frame: &[u8]) -> Cow<'_, [u8]> {
    const IP: usize = 14;
    let header = match frame.get(12..IP) {
        Some([0x08, 0x00]) => 20,
        Some([0x86, 0xdd]) => 40,
        _ => return Cow::Borrowed(frame),
    };
    if frame.len() >= IP + header {
        return Cow::Borrowed(frame);
    }
    let mut frame = frame.to_vec();
    frame.truncate(IP);
    frame.resize(IP + header, 0);
    Cow::Owned(frame)
}

fn run(
    program: &SchedClassifier,
    name: &'static str,
    ifindex: u32,
    frame: &[u8],
    cb: [u32; 5],
) -> Result<(u32, [u32; 5]), KernelError> {
    let context = SkBuff { before_cb: [0; 10], ifindex, tc_index: 0, cb, behind_cb: [0; 31] };
    let mut after = [0u8; size_of::<SkBuff>()];
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(bytes_of(&context)),
        ctx_out: Some(&mut after),
        ..TestRunOptions::new()
    };
    let result = program.test_run(options).map_err(|source| KernelError::Program { name, source })?;
    let mut answer = [0; 5];
    let words = after.chunks_exact(4).skip(offset_of!(SkBuff, cb) / 4);
    for (word, bytes) in answer.iter_mut().zip(words) {
        *word = u32::from_ne_bytes(bytes.try_into().unwrap_or_default());
    }
    Ok((result.return_value, answer))
}

/// A context, for the kernel.
trait Context {}
impl Context for SkBuff {}
impl Context for XdpMd {}

fn bytes_of<C: Context>(context: &C) -> &[u8] {
    // SAFETY: contexts are plain 32-bit integers without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(context).cast(), size_of::<C>()) }
}
