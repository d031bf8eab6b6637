//! Where the running kernel keeps what `__sk_buff` does not show, from its BTF (Documentation/bpf/btf.rst): as much of the
//! format as it takes to find the members of one structure.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::Path;

use sg_common::abi::SkBuff;

use super::KernelError;

/// BTF of the kernel without its modules.
const KERNEL: &str = "/sys/kernel/btf/vmlinux";

/// `CHECKSUM_PARTIAL`, include/linux/skbuff.h.
const CHECKSUM_PARTIAL: u32 = 3;

/// The layout of the running kernel's packets.
///
/// # Errors
///
/// If the kernel tells nothing of its types, or nothing of what is looked for.
pub fn sk_buff() -> Result<SkBuff, KernelError> {
    let path = Path::new(KERNEL);
    let bytes = fs::read(path).map_err(|error| KernelError::Btf { what: "cannot be read".into(), error })?;
    layout(&bytes).map_err(|missing| KernelError::Btf {
        what: format!("has no {missing}"),
        error: io::ErrorKind::InvalidData.into(),
    })
}

fn layout(bytes: &[u8]) -> Result<SkBuff, &'static str> {
    let btf = Btf::read(bytes).ok_or("header that is known")?;
    let members = btf.members("sk_buff").ok_or("struct sk_buff")?;
    let member = |name: &'static str| members.iter().find(|member| member.name == name).ok_or(name);
    let whole = |name| member(name).map(|member| member.bit / 8);
    let summed = member("ip_summed")?;
    // A bit field of two bits, little-endian: the lowest bit of a byte is its first.
    let shift = summed.bit % 8;
    if summed.bits != 2 || shift > 6 {
        return Err("ip_summed of two bits");
    }
    Ok(SkBuff {
        summed: summed.bit / 8,
        summed_mask: 3 << shift,
        summed_partial: CHECKSUM_PARTIAL << shift,
        csum_start: whole("csum_start")?,
        csum_offset: whole("csum_offset")?,
        head: whole("head")?,
        data: whole("data")?,
        // Linux has it since 6.2.
        cast: btf.function("bpf_cast_to_kern_ctx").unwrap_or(0),
    })
}

/// The object with its calls of [`SkBuff::CAST_CALL`] changed into those of the kernel's function. Where there is none, they
/// stay: nothing comes by them, and the verifier takes them out.
///
/// # Errors
///
/// If there is no such call.
pub fn object<'a>(object: &'a [u8], layout: &SkBuff) -> Result<Cow<'a, [u8]>, KernelError> {
    if layout.cast == 0 {
        return Ok(Cow::Borrowed(object));
    }
    // BPF_JMP | BPF_CALL; the second byte is BPF_PSEUDO_KFUNC_CALL in place of the source register (include/uapi/linux/bpf.h).
    let instruction = |source: u8, number: u32| {
        let [a, b, c, d] = number.to_le_bytes();
        [0x85, source << 4, 0, 0, a, b, c, d]
    };
    let call = instruction(0, SkBuff::CAST_CALL);
    let mut object = object.to_vec();
    let mut changed = 0;
    // Sections of instructions are aligned.
    for bytes in object.chunks_exact_mut(call.len()).filter(|bytes| *bytes == call) {
        bytes.copy_from_slice(&instruction(2, layout.cast));
        changed += 1;
    }
    if changed == 0 {
        Err(KernelError::Missing { name: "call of bpf_cast_to_kern_ctx" })
    } else {
        Ok(Cow::Owned(object))
    }
}

struct Btf<'a> {
    /// Of each type by its number: where it begins, number 0 left out.
    types: Vec<&'a [u8]>,
    strings: &'a [u8],
}

struct Member<'a> {
    name: &'a str,
    /// From the start of the structure.
    bit: u32,
    /// Of a bit field; else 0.
    bits: u32,
}

const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNCTION: u32 = 12;

impl<'a> Btf<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.get(..2)? != 0xeb9f_u16.to_ne_bytes() {
            return None;
        }
        let after_header = bytes.get(word(bytes, 4)? as usize..)?;
        let section = |at: usize| {
            let (offset, length) = (word(bytes, at)? as usize, word(bytes, at + 4)? as usize);
            after_header.get(offset..)?.get(..length)
        };
        let strings = section(16)?;
        let mut rest = section(8)?;
        let mut types = Vec::new();
        while !rest.is_empty() {
            let info = word(rest, 4)?;
            let count = (info & 0xffff) as usize;
            let further = match info >> 24 & 0x1f {
                // Integers, variables, declaration tags.
                1 | 14 | 17 => 4,
                // Arrays.
                3 => 12,
                // Structures, unions, sections, enumerations of 64 bits.
                STRUCT | UNION | 15 | 19 => count * 12,
                // Enumerations, function prototypes.
                6 | 13 => count * 8,
                // Names for, and pointers to, other types; floats.
                2 | 7..=12 | 16 | 18 => 0,
                _ => return None,
            };
            types.push(rest);
            rest = rest.get(12 + further..)?;
        }
        Some(Self { types, strings })
    }

    /// The members of a structure, those of nameless structures and unions inside of it among them.
    fn members(&self, name: &str) -> Option<Vec<Member<'a>>> {
        let index = self.named(name, STRUCT)?;
        let mut members = Vec::new();
        self.add_members(self.types.get(index)?, 0, &mut members)?;
        Some(members)
    }

    /// The number of a function.
    fn function(&self, name: &str) -> Option<u32> {
        u32::try_from(self.named(name, FUNCTION)? + 1).ok()
    }

    /// Where in `types` one of a kind and name is.
    fn named(&self, name: &str, kind: u32) -> Option<usize> {
        self.types.iter().position(|found| {
            word(found, 4).is_some_and(|info| info >> 24 & 0x1f == kind)
                && word(found, 0).and_then(|at| self.string(at)) == Some(name)
        })
    }

    fn add_members(&self, of: &'a [u8], base: u32, members: &mut Vec<Member<'a>>) -> Option<()> {
        let info = word(of, 4)?;
        let has_bit_fields = info >> 31 == 1;
        for index in 0..(info & 0xffff) as usize {
            let at = 12 + index * 12;
            let (name, kind, offset) = (word(of, at)?, word(of, at + 4)?, word(of, at + 8)?);
            let (bit, bits) = if has_bit_fields { (offset & 0xff_ffff, offset >> 24) } else { (offset, 0) };
            let name = self.string(name)?;
            if !name.is_empty() {
                members.push(Member { name, bit: base + bit, bits });
                continue;
            }
            let inner = self.types.get((kind as usize).checked_sub(1)?)?;
            if matches!(word(inner, 4)? >> 24 & 0x1f, STRUCT | UNION) {
                self.add_members(inner, base + bit, members)?;
            }
        }
        Some(())
    }

    fn string(&self, at: u32) -> Option<&'a str> {
        let rest = self.strings.get(at as usize..)?;
        let end = rest.iter().position(|&byte| byte == 0)?;
        std::str::from_utf8(rest.get(..end)?).ok()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.get(..4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernels_layout_is_as_its_source_has_it() {
        let found = sk_buff().unwrap();
        // include/linux/skbuff.h: the two words of the checksum share a union of four bytes, the pointers follow each other.
        assert_eq!(found.csum_offset, found.csum_start + 2, "{found:?}");
        assert_eq!(found.csum_start % 4, 0, "{found:?}");
        assert_eq!(found.data, found.head + 8, "{found:?}");
        assert!(found.summed < found.csum_start && found.csum_start < found.head, "{found:?}");
        assert!((0..=6).any(|shift| found.summed_mask == 3 << shift), "{found:?}");
        assert_eq!(found.summed_partial, found.summed_mask, "3 of two bits: {found:?}");
    }

    #[test]
    fn what_is_no_btf_is_told() {
        let real = fs::read(KERNEL).unwrap();
        for bytes in [&[][..], b"\x9f\xeb", &[0; 64], &real[..real.len() / 2], &real[1..]] {
            assert_eq!(layout(bytes), Err("header that is known"));
        }
        // The same types under other names.
        let at = real.windows(9).position(|bytes| bytes == b"\0sk_buff\0").unwrap();
        let mut renamed = real.clone();
        renamed[at + 1] = b'x';
        assert_eq!(layout(&renamed), Err("struct sk_buff"));
    }
}
