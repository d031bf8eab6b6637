//! Packets as people have them: hexadecimal digits as tools print them, or a capture.

use std::io::{Cursor, Read as _};
use std::{fs, io};

use pcap_file::DataLink;
use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::{Block, PcapNgReader};

/// Larger than any dump that a person asks about.
const LARGEST: u64 = 64 << 20;
/// `xxd`, `hexdump -C`, tcpdump and Wireshark put as many bytes in a line.
const LINE: usize = 16;

/// How captures begin: either order of bytes, with microseconds or nanoseconds.
const PCAP: [[u8; 4]; 4] =
    [[0xd4, 0xc3, 0xb2, 0xa1], [0xa1, 0xb2, 0xc3, 0xd4], [0x4d, 0x3c, 0xb2, 0xa1], [0xa1, 0xb2, 0x3c, 0x4d]];

/// The packets in `source`: digits, `-` for standard input, or `@FILE`.
///
/// # Errors
///
/// What cannot be read, where, and what was expected.
pub fn read(source: &str) -> Result<Vec<Vec<u8>>, String> {
    let bytes = match source.strip_prefix('@') {
        _ if source == "-" => limited(io::stdin().lock())
            .map_err(|error| format!("standard input: {error}; pipe a dump or a capture into it"))?,
        Some(path) => {
            let told = |error: io::Error| format!("{path}: {error}; give @FILE with a dump or a capture");
            limited(fs::File::open(path).map_err(told)?).map_err(told)?
        }
        None => source.as_bytes().to_vec(),
    };
    let packets = match bytes.get(..4) {
        Some(magic) if PCAP.iter().any(|known| magic == known) => pcap(&bytes)?,
        Some([0x0a, 0x0d, 0x0d, 0x0a]) => pcapng(&bytes)?,
        _ => {
            let text = String::from_utf8(bytes).map_err(|_| {
                "neither text nor a capture (pcap, pcapng); give hexadecimal digits".to_owned()
            })?;
            digits(&text)?
        }
    };
    if packets.is_empty() {
        return Err(
            "there is no packet in it; give hexadecimal digits, as `tcpdump -xx` prints them".to_owned()
        );
    }
    Ok(packets)
}

fn limited(source: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        let why = format!("more than {} MiB; cut out the packet that you ask about", LARGEST >> 20);
        return Err(io::Error::other(why));
    }
    Ok(bytes)
}

fn ethernet(link: DataLink) -> Result<(), String> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    Err(format!(
        "the capture has no Ethernet frames but {link:?}; record it on the device itself: tcpdump -i DEVICE -w FILE"
    ))
}

fn pcap(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let broken = |error| format!("the capture is broken: {error}; record it anew with tcpdump -w");
    let mut reader = PcapReader::new(Cursor::new(bytes)).map_err(broken)?;
    ethernet(reader.header().datalink)?;
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        packets.push(packet.map_err(broken)?.data.into_owned());
    }
    Ok(packets)
}

fn pcapng(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let broken = |error| format!("the capture is broken: {error}; record it anew with tcpdump -w");
    let mut reader = PcapNgReader::new(Cursor::new(bytes)).map_err(broken)?;
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        let data = match block.map_err(broken)? {
            Block::InterfaceDescription(interface) => {
                ethernet(interface.linktype)?;
                continue;
            }
            Block::EnhancedPacket(packet) => packet.data.into_owned(),
            Block::SimplePacket(packet) => packet.data.into_owned(),
            _ => continue,
        };
        packets.push(data);
    }
    Ok(packets)
}

/// Digits in any of the usual forms: a dump with offsets, of which other lines are passed over, or digits alone.
fn digits(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let lines: Vec<(usize, usize, &str, bool)> = (1..)
        .zip(text.lines())
        .filter_map(|(number, line)| offset(line).map(|(at, rest, colon)| (number, at, rest, colon)))
        .collect();
    if lines.is_empty() {
        return plain(text).map(|packet| if packet.is_empty() { Vec::new() } else { vec![packet] });
    }
    let mut packets: Vec<Vec<u8>> = Vec::new();
    for (number, at, rest, colon) in lines {
        if at == 0 {
            packets.push(Vec::new());
        }
        let so_far = packets.last().map_or(0, Vec::len);
        if at != so_far {
            return Err(format!(
                "line {number} is of byte {at:#x}, and byte {so_far:#x} was expected: a line is missing; give the whole dump"
            ));
        }
        let bytes = dumped(rest, colon);
        if bytes.is_empty() {
            // `hexdump` and `xxd` end with the length alone.
            continue;
        }
        if let Some(packet) = packets.last_mut() {
            packet.extend(bytes);
        }
    }
    packets.retain(|packet| !packet.is_empty());
    Ok(packets.into_iter().map(with_ethernet).collect())
}

/// A line's offset, what follows it, and whether a colon stands between: `0x0010:  4500 …`, `00000010  45 00 …`, `0010   45 …`.
fn offset(line: &str) -> Option<(usize, &str, bool)> {
    let line = line.trim_start();
    let line = line.strip_prefix("0x").unwrap_or(line);
    let end = line.find(|letter: char| !letter.is_ascii_hexdigit())?;
    let (number, rest) = line.split_at_checked(end)?;
    let colon = rest.starts_with(':');
    let apart = if colon { rest.starts_with(": ") } else { rest.starts_with("  ") };
    if !(4..=8).contains(&number.len()) || !apart {
        return None;
    }
    Some((usize::from_str_radix(number, 16).ok()?, rest.trim_start_matches(':'), colon))
}

/// The bytes of a dump's line, without the letters beside them. Those stand behind two spaces or more, which without a colon
/// may also stand in the middle.
fn dumped(rest: &str, colon: bool) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::new();
    let mut left = rest.trim_start();
    while !left.is_empty() && bytes.len() < LINE {
        let end = left.find(' ').unwrap_or(left.len());
        let (word, behind) = left.split_at_checked(end).unwrap_or((left, ""));
        let Ok(more) = hex::decode(word) else { break };
        bytes.extend(more);
        left = behind.trim_start();
        let gap = behind.len() - left.len();
        if gap > 2 || (gap == 2 && (colon || bytes.len() != LINE / 2)) {
            break;
        }
    }
    bytes.truncate(LINE);
    bytes
}

/// Digits without offsets: a stream, or bytes between spaces, colons, dashes or commas, with or without `0x` and `\x`.
fn plain(text: &str) -> Result<Vec<u8>, String> {
    let cleaned = text.replace("\\x", " ").replace("0x", " ").replace("0X", " ");
    let mut letters = String::with_capacity(cleaned.len());
    for letter in cleaned.chars() {
        match letter {
            _ if letter.is_ascii_hexdigit() => letters.push(letter),
            ':' | '-' | ',' | ';' | '{' | '}' | '"' | '\'' | '.' => {}
            _ if letter.is_whitespace() => {}
            other => {
                return Err(format!(
                    "{other:?} behind {} digits is no hexadecimal digit; give the frame as `tcpdump -xx`, xxd or Wireshark print it",
                    letters.len()
                ));
            }
        }
    }
    hex::decode(&letters).map(with_ethernet).map_err(|_| {
        format!(
            "{} hexadecimal digits are no whole bytes; add the one that is missing, or take one away",
            letters.len()
        )
    })
}

/// `tcpdump -x` prints packets without their Ethernet header. They are told by their IP header, which says how long they are.
fn with_ethernet(packet: Vec<u8>) -> Vec<u8> {
    let word = |at: usize| match packet.get(at..at + 2) {
        Some([high, low]) => usize::from(u16::from_be_bytes([*high, *low])),
        _ => 0,
    };
    let kind: [u8; 2] = match packet.first().map(|first| first >> 4) {
        Some(4) if word(2) == packet.len() => [0x08, 0x00],
        Some(6) if word(4) + 40 == packet.len() => [0x86, 0xdd],
        _ => return packet,
    };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind, &packet].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A SYN to port 80, 60 bytes.
    const SYN: &str = "5254000000015254000000050800450000280001000040062cbd0a0000050808080801bb005000000001000000005002ffff00000000000000000000";

    fn syn() -> Vec<Vec<u8>> {
        vec![hex::decode(SYN).unwrap()]
    }

    /// As tools print it: words of so many bytes, so many a line.
    fn dump(
        prefix: impl Fn(usize) -> String,
        word: usize,
        half: &str,
        ascii: impl Fn(&[u8]) -> String,
    ) -> String {
        let lines = syn()[0]
            .chunks(16)
            .enumerate()
            .map(|(line, bytes)| {
                let words: Vec<String> = bytes.chunks(word).map(hex::encode).collect();
                let digits = if half.is_empty() {
                    words.join(" ")
                } else {
                    words.chunks(8).map(|words| words.join(" ")).collect::<Vec<_>>().join(half)
                };
                format!("{}{digits:48}{}\n", prefix(line * 16), ascii(bytes))
            })
            .collect::<Vec<_>>();
        lines.concat()
    }

    fn letters(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '.' }).collect()
    }

    #[test]
    fn frames_are_read_as_tools_print_them() {
        let tcpdump_xx = format!(
            "12:00:00.000001 IP 10.0.0.5.443 > 8.8.8.8.80: Flags [S], seq 1, length 0\n{}",
            dump(|at| format!("\t0x{at:04x}:  "), 2, "", |_| String::new())
        );
        let tcpdump_big_xx =
            dump(|at| format!("\t0x{at:04x}:  "), 2, "", |bytes| format!("  {}", letters(bytes)));
        let xxd = dump(|at| format!("{at:08x}: "), 2, "", |bytes| format!("  {}", letters(bytes)));
        let hexdump = dump(|at| format!("{at:08x}  "), 1, "  ", |bytes| format!("  |{}|", letters(bytes)))
            + "0000003c\n";
        let wireshark = dump(|at| format!("{at:04x}   "), 1, "", |bytes| format!("   {}", letters(bytes)));
        let bytes = syn()[0].iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>();
        for text in [
            SYN.to_owned(),
            SYN.to_uppercase(),
            format!("0x{SYN}\n"),
            bytes.join(":"),
            bytes.join(" "),
            bytes.iter().map(|byte| format!("0x{byte}")).collect::<Vec<_>>().join(", "),
            bytes.iter().map(|byte| format!("\\x{byte}")).collect::<String>(),
            tcpdump_xx,
            tcpdump_big_xx,
            xxd,
            hexdump,
            wireshark,
        ] {
            assert_eq!(digits(&text), Ok(syn()), "{text}");
        }
    }

    #[test]
    fn several_packets_are_told_apart_and_letters_are_no_digits() {
        let two = "x\n\t0x0000:  4142 4344            ABCD\ny\n\t0x0000:  4546                 EF\n";
        assert_eq!(digits(two), Ok(vec![b"ABCD".to_vec(), b"EF".to_vec()]));
        let missing = "0x0000:  4142\n0x0010:  4344\n";
        assert!(digits(missing).unwrap_err().contains("line 2"), "{missing}");
    }

    #[test]
    fn what_tcpdump_prints_without_its_ethernet_header_gets_one() {
        let ip = &SYN[28..28 + 80];
        let frame = plain(ip).unwrap();
        assert_eq!((frame.len(), &frame[12..14], &frame[14..]), (54, &[8, 0][..], &syn()[0][14..54]));
    }

    #[test]
    fn what_is_no_frame_is_said_with_its_place() {
        for (text, why) in [("12 34 5g", "'g' behind 5 digits"), ("123", "3 hexadecimal digits")] {
            let error = digits(text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(read("").unwrap_err().contains("no packet"));
        assert!(read("@/nowhere").unwrap_err().contains("/nowhere"));
    }

    #[test]
    fn captures_are_read() {
        use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
        let write = |datalink| {
            let header = PcapHeader { datalink, ..PcapHeader::default() };
            let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
            for packet in [&syn()[0][..], &[1; 20]] {
                writer
                    .write_packet(&PcapPacket::new(std::time::Duration::ZERO, packet.len() as u32, packet))
                    .unwrap();
            }
            let file = tempfile::NamedTempFile::new().unwrap();
            fs::write(file.path(), writer.into_writer()).unwrap();
            file
        };
        let file = write(DataLink::ETHERNET);
        let packets = read(&format!("@{}", file.path().display())).unwrap();
        assert_eq!(packets, [syn()[0].clone(), vec![1; 20]]);
        let file = write(DataLink::LINUX_SLL2);
        let error = read(&format!("@{}", file.path().display())).unwrap_err();
        assert!(error.contains("tcpdump -i DEVICE"), "{error}");
    }
}
