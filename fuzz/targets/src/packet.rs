//! Frames and time, through the real decisions over tables in memory and through the oracle.

use proptest::strategy::{BoxedStrategy, Strategy};
use serde_json::Value;
use sg_oracle::expect::Limits;
use sg_oracle::guarded::{GuardedWorld, any_guarded_world};
use sg_oracle::traffic::Step;
use sg_oracle::trial::{ROOM, Trial};

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
    let few = Limits { live: 2, half_v4: 3, half_v6: 2, datagrams: 2 };
    let mut trial = Trial::new(&files, if bytes.number(1) < 64 { few } else { ROOM });
    let mut story = Vec::new();
    for _ in 0..MOST_STEPS {
        let &[tag] = bytes.take(1) else { break };
        let step = match tag {
            ADVANCE..POLICY => Step::Advance(bytes.number(3)),
            POLICY..FRAME => {
                files = policy(bytes.take(DICE));
                trial.set_policy(&files);
                story.push("another policy".to_owned());
                continue;
            }
            FRAME.. => {
                let devices = devices(&files);
                let device = devices[usize::from(tag >> 1 & 7) % devices.len()].to_owned();
                let length = bytes.number(2) as usize;
                Step::Frame { device, ingress: tag & 1 != 0, frame: bytes.take(length).to_vec() }
            }
        };
        let judged = trial.step(&step);
        story.push(format!(
            "{step:?} {}",
            judged.as_ref().ok().copied().flatten().map_or("", |counted| counted.reason.name())
        ));
        if let Err(error) = judged {
            let policy = serde_json::to_string_pretty(&files).unwrap();
            panic!("{error}\nafter the last of\n{}\nunder (the last policy)\n{policy}", story.join("\n"));
        }
    }
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
