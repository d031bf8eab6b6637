//! How large the programs may be: a packet's price, and the distance to what the verifier takes at all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use sg_common::abi::program;
use sg_daemon::kernel::{Kernel, RunHook, TableSizes, TcMode};
use sg_tests::Lab;

/// What a program may take. `instructions`: after the verifier's rewriting, before the compiler to machine code; what a
/// packet runs through is a part of it. `verified`: instructions that the verifier walked on all paths together (it
/// gives up at 1,000,000; kernel/bpf/verifier.c, `BPF_COMPLEXITY_LIMIT_INSNS`), which also is how long loading takes.
struct Budget {
    name: &'static str,
    instructions: u32,
    verified: u32,
}

/// About a tenth above what was measured on Linux 6.18. A test that fails here is a question: is what was added worth it?
/// If so, set the number to a tenth above what the failure shows, in the change that needs it, and say why there. If a
/// program has become much smaller, lower its budget: a budget that is never met protects nothing.
const BUDGETS: [Budget; 6] = [
    // Members and what rules say of them are looked up by the programs themselves, where the kernel's hash was a call. What is done
    // with a packet of a known flow stands there by itself, in fewer instructions than with all others.
    Budget { name: program::XDP_INGRESS, instructions: 16_200, verified: 280_000 },
    Budget { name: program::TC_CHECKSUM, instructions: 1_640, verified: 33_800 },
    Budget { name: program::TC_INGRESS, instructions: 16_800, verified: 272_000 },
    Budget { name: program::TC_EGRESS, instructions: 16_400, verified: 272_000 },
    // Headers are read where they are needed, not in a subprogram, which every packet would pay for: so what is read in more
    // ways here than in the programs that are attached is followed further.
    Budget { name: program::EXPLAIN, instructions: 8_980, verified: 92_000 },
    // The table of flows is a program's own work, where the kernel's hash was a call.
    Budget { name: program::COLLECT, instructions: 2_660, verified: 39_200 },
];

/// An instruction's size, `struct bpf_insn` in include/uapi/linux/bpf.h.
const INSTRUCTION_BYTES: u32 = 8;

struct Pins(PathBuf);

impl Drop for Pins {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// All programs, which are loaded when they are needed.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
fn loaded(pins: &Pins) -> Kernel {
    let mut kernel = Kernel::open(&pins.0, TcMode::Auto, TableSizes::default()).unwrap();
    let mut refused = Vec::new();
    for hook in [RunHook::TcIngress, RunHook::TcEgress, RunHook::XdpIngress, RunHook::BehindXdp] {
        if let Err(error) = kernel.run_frame(hook, 0, &[0; 64]) {
            refused.push(format!("{hook:?}: {:#}", anyhow::Error::from(error)));
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
    kernel
}

/// In every kernel that is promised (`cargo xtask vm-test`): budgets are for one of them.
#[test]
fn the_kernel_takes_every_program() {
    let lab = Lab::new().unwrap();
    loaded(&Pins(Path::new("/sys/fs/bpf").join(lab.name())));
}

#[test]
fn every_program_stays_within_its_budget() {
    let lab = Lab::new().unwrap();
    let pins = Pins(Path::new("/sys/fs/bpf").join(lab.name()));
    let kernel = loaded(&pins);
    let maps: Vec<u32> = fs::read_dir(kernel.pins().maps())
        .unwrap()
        .map(|entry| MapInfo::from_pin(entry.unwrap().path()).unwrap().id())
        .collect();
    // Other programs of these names may be loaded; ours are those that use our maps.
    let mut found = BTreeMap::new();
    for info in loaded_programs().flatten() {
        let ours = info.map_ids().ok().flatten().is_some_and(|ids| ids.iter().any(|id| maps.contains(id)));
        if ours {
            let name = info.name_as_str().unwrap_or_default().to_owned();
            let instructions = info.size_translated().unwrap() / INSTRUCTION_BYTES;
            found.insert(name, (instructions, info.verified_instruction_count().unwrap()));
        }
    }
    let mut over = Vec::new();
    for Budget { name, instructions, verified } in BUDGETS {
        let &(has, walked) = found.get(name).unwrap_or_else(|| panic!("{name} is not loaded: {found:?}"));
        println!("{name}: {has} of {instructions} instructions, {walked} of {verified} verified");
        for (what, has, budget) in [("instructions", has, instructions), ("verified", walked, verified)] {
            if has > budget {
                over.push(format!("{name}: {has} {what}, the budget is {budget}"));
            }
        }
    }
    assert!(over.is_empty(), "over budget:\n{}", over.join("\n"));
    // Whatever is loaded has a budget.
    let budgeted = |name: &str| BUDGETS.iter().any(|budget| budget.name == name) || name == program::CLOCK;
    assert!(found.keys().all(|name| budgeted(name)), "{found:?}");
}
