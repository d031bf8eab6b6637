//! How much of the kernel's stack the programs take, in every kernel that there is a promise for.
//!
//! Kernels differ in how they round a function's part of the stack up (kernel/bpf/verifier.c, `check_max_stack_depth`): the newer ones
//! to 16 bytes, those before 6.9 to 32. What fits there fits everywhere.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use sg_daemon::kernel::object;

/// `MAX_BPF_STACK`.
const STACK: u32 = 512;
const ROUNDING: u32 = 32;
/// The register that points to the end of a function's part.
const FRAME: u8 = 10;

/// `BPF_JMP | BPF_CALL` with this source is a call of a function of the object (`BPF_PSEUDO_CALL`).
const CALL: (u8, u8) = (0x85, 1);
/// `BPF_LD | BPF_DW | BPF_IMM` with this source is the address of one, which a helper calls (`BPF_PSEUDO_FUNC`).
const CALLBACK: (u8, u8) = (0x18, 4);
/// `BPF_ALU64 | BPF_MOV | BPF_X`.
const MOVE: u8 = 0xbf;
/// `BPF_ALU64 | BPF_ADD | BPF_K`.
const ADD: u8 = 0x07;
const CLASS: u8 = 0x07;
/// `BPF_LDX`, `BPF_ST`, `BPF_STX`.
const MEMORY: [u8; 3] = [1, 2, 3];
const LDX: u8 = 1;

/// One function: how deep it goes, and the beginnings of those that it calls.
#[derive(Debug, Default)]
struct Function {
    depth: u32,
    calls: BTreeSet<usize>,
}

fn deeper(function: &mut Function, offset: i32) {
    if offset < 0 {
        function.depth = function.depth.max(offset.unsigned_abs());
    }
}

/// The first instruction of what a call at this place of a linked program calls.
fn callee(at: usize, call: &bpf_insn) -> usize {
    (at as i64 + 1 + i64::from(call.imm)) as usize
}

/// The functions of a linked program by their first instruction.
fn functions(program: &[bpf_insn]) -> BTreeMap<usize, Function> {
    let target = |at: usize, insn: &bpf_insn| {
        [CALL, CALLBACK].contains(&(insn.code, insn.src_reg())).then(|| callee(at, insn))
    };
    let mut functions: BTreeMap<usize, Function> = program
        .iter()
        .enumerate()
        .filter_map(|(at, insn)| Some((target(at, insn)?, Function::default())))
        .collect();
    functions.insert(0, Function::default());
    for (at, insn) in program.iter().enumerate() {
        // There is one at 0.
        let Some((_, function)) = functions.range_mut(..=at).next_back() else { continue };
        if let Some(callee) = target(at, insn) {
            function.calls.insert(callee);
        }
        let base = if insn.code & CLASS == LDX { insn.src_reg() } else { insn.dst_reg() };
        if MEMORY.contains(&(insn.code & CLASS)) && base == FRAME {
            deeper(function, i32::from(insn.off));
        }
        // An address on the stack, for a helper or a function.
        if insn.code == MOVE && insn.src_reg() == FRAME {
            let register = insn.dst_reg();
            let next = program.get(at + 1..).unwrap_or_default().iter().take(8);
            let added = next.clone().find(|next| next.code == ADD && next.dst_reg() == register);
            deeper(function, added.map_or(0, |added| added.imm));
        }
    }
    functions
}

/// The deepest way through the functions from one of them on, rounded, and the parts of it.
fn deepest(functions: &BTreeMap<usize, Function>, from: usize) -> (u32, Vec<u32>) {
    let function = &functions[&from];
    let own = function.depth.max(1).next_multiple_of(ROUNDING);
    let below = function.calls.iter().map(|&callee| deepest(functions, callee)).max().unwrap_or_default();
    (own + below.0, [vec![function.depth], below.1].concat())
}

#[test]
fn every_program_fits_the_stack_of_every_kernel() {
    let mut object = Object::parse(object()).unwrap();
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text).unwrap();
    let mut over = Vec::new();
    for (name, program) in &object.programs {
        let linked = &object.functions[&program.function_key()];
        let (depth, chain) = deepest(&functions(&linked.instructions), 0);
        println!("{name}: {depth} of {STACK} bytes, {chain:?}");
        if depth > STACK {
            over.push(format!("{name}: {depth} bytes, {chain:?}"));
        }
    }
    assert!(object.programs.len() >= 6);
    assert!(over.is_empty(), "more than {STACK} bytes of stack:\n{}", over.join("\n"));
}

/// How often a linked program calls a function with these instructions.
fn calls(program: &[bpf_insn], body: &[bpf_insn]) -> usize {
    let words = |instructions: &[bpf_insn]| -> Vec<(u8, u8, u8, i16)> {
        let word = |insn: &bpf_insn| (insn.code, insn.dst_reg(), insn.src_reg(), insn.off);
        instructions.iter().map(word).collect()
    };
    let body = words(body);
    let is_there = |at: usize| program.get(at..at + body.len()).is_some_and(|part| words(part) == body);
    let targets = program.iter().enumerate().filter(|(_, insn)| CALL == (insn.code, insn.src_reg()));
    targets.filter(|(at, insn)| is_there(callee(*at, insn))).count()
}

/// Whole arrays are moved, compared and filled by functions of the target that go byte by byte: an IPv6 address took 134 instructions.
/// `sg_common::packet::copy` goes word by word.
#[test]
fn hardly_anything_goes_byte_by_byte() {
    let mut object = Object::parse(object()).unwrap();
    let named = |names: &[&str]| -> Vec<(String, Vec<bpf_insn>)> {
        let all = object.functions.values().filter(|function| names.contains(&function.name.as_str()));
        all.map(|function| (function.name.clone(), function.instructions.clone())).collect()
    };
    let moves = named(&["memmove", "memcpy", "memcmp", "bcmp"]);
    let fill = named(&["memset"]);
    assert!(moves.iter().any(|(name, _)| name == "memmove") && fill.len() == 1, "their names have changed");
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&text).unwrap();
    for (name, program) in &object.programs {
        let linked = &object.functions[&program.function_key()].instructions;
        for (function, body) in &moves {
            assert_eq!(calls(linked, body), 0, "{name} calls {function}");
        }
        // Only what could not be read: the headers of a packet that is dropped for it, once for each family, and the sides of one
        // that is no IP, if somebody watches.
        let filled = fill.iter().map(|(_, body)| calls(linked, body)).sum::<usize>();
        assert!(filled <= 3, "{name} fills {filled} times");
    }
}
