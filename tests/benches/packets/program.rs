//! Programs of single instructions.

use sg_tests::bpf::instruction;

/// Codes of the instruction set (RFC 9669) that more than one program has.
pub mod code {
    pub const LOAD_MAP: u8 = 0x18;
    pub const LOAD_WORD: u8 = 0x61;
    pub const STORE_WORD: u8 = 0x63;
    pub const MOVE: u8 = 0xbf;
    pub const MOVE_CONSTANT: u8 = 0xb7;
    pub const ADD_CONSTANT: u8 = 0x07;
    pub const IF_MORE: u8 = 0x2d;
    pub const CALL: u8 = 0x85;
}

/// A line of a program.
pub enum Line {
    Do(u64),
    /// A comparison, and where to go if it holds.
    Jump(u64, &'static str),
    Here(&'static str),
}

/// Jumps become as far as they are: each goes forward, to one place.
pub fn resolve(lines: &[Line]) -> Vec<u64> {
    let instructions = |lines: &[Line]| lines.iter().filter(|line| !matches!(line, Line::Here(_))).count();
    let place = |label: &str| {
        let at = lines.iter().position(|line| matches!(line, Line::Here(here) if *here == label));
        instructions(&lines[..at.unwrap()])
    };
    let mut program = Vec::new();
    for line in lines {
        match *line {
            Line::Do(word) => program.push(word),
            Line::Jump(comparison, label) => {
                let far = place(label) - program.len() - 1;
                program.push(comparison | instruction(0, 0, 0, far as i16, 0));
            }
            Line::Here(_) => {}
        }
    }
    program
}
