//! Frames and time, through the real decisions over tables in memory and through the oracle.

use std::fmt::Write;

use proptest::strategy::{BoxedStrategy, Strategy};
use serde_json::Value;
use sg_common::abi;
use sg_common::conntrack::State;
use sg_oracle::expect::{self, FlowView, Oracle};
use sg_oracle::guarded::{GuardedWorld, any_guarded_world};
use sg_oracle::host::{self, Host};
use sg_oracle::traffic::Step;

use crate::compiler::thrown;

/// So many bytes are the dice that a policy is thrown with.
const DICE: usize = 2;
const MOST_STEPS: usize = 64;
/// As a device's name, and thus in no policy.
const NO_DEVICE: &str = "sg-none";

/// Tags of steps. From [`FRAME`] on: bit 0 is the hook (1 is ingress), the next three are the device.
const ADVANCE: u8 = 0x00;
const POLICY: u8 = 0x10;
const FRAME: u8 = 0x20;

/// What the bytes say:
///
/// ```text
/// 2 bytes      dice for the policy
/// 1 byte       0 to 63: tables so small that they are full soon
/// steps of     0x00–0x0f, 3 bytes: seconds that pass
///              0x10–0x1f, 2 bytes: dice for another policy
///              else, 2 bytes of length, a frame
/// ```
///
/// Numbers are big endian; what is cut off counts as far as it goes. Both must give the same reason for each frame and have
/// the same flows after it.
pub fn packet(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut files = policy(bytes.take(DICE));
    let (live, half_v4, half_v6) = if bytes.number(1) < 64 { (2, 3, 2) } else { (1000, 1000, 1000) };
    let mut host = Host::new(&files, host::Limits { live, half_v4, half_v6 });
    let mut oracle = Oracle::new(
        &files,
        expect::Limits { live: live.into(), half_v4: half_v4.into(), half_v6: half_v6.into() },
    );
    let mut story = String::new();
    for _ in 0..MOST_STEPS {
        let &[tag] = bytes.take(1) else { break };
        match tag {
            ADVANCE..POLICY => {
                let seconds = bytes.number(3);
                host.advance(seconds);
                oracle.advance(seconds.into());
                let _ = writeln!(story, "{:?}", Step::Advance(seconds));
            }
            POLICY..FRAME => {
                files = policy(bytes.take(DICE));
                host.set_policy(&files);
                oracle.set_policy(&files);
                let _ = writeln!(story, "{}", serde_json::json!(files));
            }
            FRAME.. => {
                let devices = devices(&files);
                let device = devices[usize::from(tag >> 1 & 7) % devices.len()].to_owned();
                let length = bytes.number(2) as usize;
                let (ingress, frame) = (tag & 1 != 0, bytes.take(length).to_vec());
                let judged =
                    host.judge(&device, ingress, &frame).verdict.reason().map(|reason| reason.name());
                let said = oracle.judge(&device, ingress, &frame).reason;
                let step = Step::Frame { device, ingress, frame };
                let _ = writeln!(story, "{step:?} {said}");
                let (known, expected) = (flows(&host), oracle.flows());
                if (judged, &known) != (Some(said), &expected) {
                    let policy = serde_json::to_string_pretty(&files).unwrap();
                    panic!(
                        "the filter says {judged:?} and has\n{known:#?}\nthe oracle {said:?} and\n{expected:#?}\n\
                         after the last frame of\n{story}under (the last policy)\n{policy}"
                    );
                }
            }
        }
    }
}

/// The filter's flows whose time is not over, in the oracle's words.
fn flows(host: &Host) -> Vec<FlowView> {
    let entries = host.entries().into_iter().filter(|entry| entry.flow.expires > host.now());
    let mut flows: Vec<FlowView> = entries
        .map(|entry| FlowView {
            device: host.device(entry.zone).to_owned(),
            protocol: entry.protocol,
            local: entry.local,
            remote: entry.remote,
            ports: entry.ports,
            state: State::from_number(entry.flow.state).unwrap().name(),
            live: entry.live,
            begun_by_instance: entry.flow.flags & abi::FLOW_ORIGIN_OUTBOUND != 0,
            seconds_left: (entry.flow.expires - host.now()) / host::HZ,
        })
        .collect();
    flows.sort();
    flows
}

fn policy(dice: &[u8]) -> Vec<Value> {
    thread_local! {
        static WORLDS: BoxedStrategy<GuardedWorld> = any_guarded_world().boxed();
    }
    WORLDS.with(|worlds| thrown(worlds, dice)).files()
}

/// Those that are filtered, and one that is not there.
fn devices(files: &[Value]) -> Vec<&str> {
    let interfaces = files.iter().filter_map(|file| file["interfaces"].as_array()).flatten();
    let filtered = interfaces.filter(|interface| interface["kind"] != "bare_metal");
    filtered.map(|interface| interface["name"].as_str().unwrap()).chain([NO_DEVICE]).collect()
}

/// The bytes of some steps under the policy of these dice: the inverse, for seeds.
pub fn encode(dice: [u8; DICE], small: bool, steps: &[Step]) -> Vec<u8> {
    let files = policy(&dice);
    let devices = devices(&files);
    let mut bytes = [&dice[..], &[if small { 0 } else { 0xff }]].concat();
    for step in steps {
        match step {
            Step::Advance(seconds) => {
                bytes.push(ADVANCE);
                bytes.extend(&seconds.to_be_bytes()[1..]);
            }
            Step::Frame { device, ingress, frame } => {
                let index = devices.iter().position(|known| known == device).unwrap();
                bytes.push(FRAME | (index as u8) << 1 | u8::from(*ingress));
                bytes.extend((frame.len() as u16).to_be_bytes());
                bytes.extend(frame);
            }
        }
    }
    bytes
}

/// Traffic that fits the policy of these dice.
pub fn traffic(dice: [u8; DICE], script: &sg_oracle::traffic::Script) -> Vec<Step> {
    script.steps(&policy(&dice))
}

struct Bytes<'b>(&'b [u8]);

impl<'b> Bytes<'b> {
    /// The next few, or what there is.
    fn take(&mut self, count: usize) -> &'b [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u32 {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
    }
}
