//! The file and the flows behind it.

use super::*;

const HERE: Here = Here { zone: 7, now: 1_000_000, hz: 250, policy: 3, timeouts: [250_000; 12] };

fn tcp() -> Record {
    let side = Side { end: Some(1001), ack: Some(5001), window: Some(64240), scale: Some(7), fin: false };
    Record {
        protocol: 6,
        local: "10.0.0.5".parse().unwrap(),
        remote: "203.0.113.10".parse().unwrap(),
        local_port: Some(7000),
        remote_port: Some(40_000),
        icmp: None,
        direction: Direction::Inbound,
        state: "established".to_owned(),
        half_open: false,
        replied: true,
        expires_in_ms: 60_000,
        age_ms: 4096,
        tcp: Some(Tcp { origin: side, reply: Side { scale: None, fin: true, ..side }, pieces: false }),
    }
}

fn ping() -> Record {
    Record {
        protocol: 58,
        local: "fd00::5".parse().unwrap(),
        remote: "2001:db8::1".parse().unwrap(),
        local_port: None,
        remote_port: None,
        icmp: Some(Query { id: 77, request: 128 }),
        direction: Direction::Outbound,
        state: "icmp".to_owned(),
        half_open: true,
        replied: false,
        expires_in_ms: 500,
        age_ms: 0,
        tcp: None,
    }
}

fn gre() -> Record {
    Record { protocol: 47, icmp: None, state: "other".to_owned(), ..ping() }
}

#[test]
fn a_file_is_read_as_it_was_written() {
    let records = [tcp(), ping(), gre()];
    let text = write("tap0", &records).unwrap();
    assert_eq!(text.lines().count(), 4);
    let (header, read) = read(&text).unwrap();
    assert_eq!((header.interface.as_str(), header.flows), ("tap0", 3));
    assert_eq!(read, records);
}

#[test]
fn a_flow_becomes_a_record_and_the_same_flow_again() {
    for record in [tcp(), ping(), gre()] {
        let (key, flow) = record.flow(&HERE).unwrap();
        let other = Here { zone: 9, now: 77_000_000, hz: 1000, policy: 5, timeouts: [1_000_000; 12] };
        let entry = crate::kernel::described(key, &flow, HERE.now, HERE.hz).unwrap();
        assert_eq!(entry.zone, 7);
        let again = Record::new(&entry, &flow, &HERE);
        // A tick of the clock and the unit of ages are all that gets lost.
        assert!(again.age_ms.abs_diff(record.age_ms) <= 64 * 4, "{again:?}");
        assert_eq!(Record { age_ms: record.age_ms, ..again.clone() }, record);
        let (there_key, there) = again.flow(&other).unwrap();
        assert_eq!((there.flags, there.tcp, there.sequence), (flow.flags, flow.tcp, flow.sequence));
        assert_eq!(there.state, flow.state);
        assert_eq!((there.expires - other.now) * 250, (flow.expires - HERE.now) * 1000);
        assert_eq!(there.policy, 5);
        assert_ne!(there_key, key, "the zone is the other host's");
    }
}

#[test]
fn nothing_lasts_longer_than_its_state_does_here() {
    let forged = Record { expires_in_ms: u64::MAX, age_ms: u64::MAX, ..tcp() };
    let (_, flow) = forged.flow(&HERE).unwrap();
    assert_eq!(flow.expires, HERE.now + 250_000);
    assert_eq!(flow.created, 0);
}

#[test]
fn a_file_that_is_none_is_refused_with_what_is_wrong() {
    let good = write("tap0", &[tcp(), ping()]).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    let cut_line = good.trim_end().strip_suffix("false}}").map_or(&good[..good.len() - 9], |cut| cut);
    for (text, words) in [
        (String::new(), "empty"),
        ("\n".to_owned(), "header"),
        ("\u{1b}[31mgarbage".to_owned(), "header"),
        ("{\"a\":1}\n".to_owned(), "header"),
        (lines[1].to_owned(), "header"),
        (good.replacen("\"version\":1", "\"version\":2", 1), "version 2"),
        (good.replacen("\"version\":1", "\"version\":\"1\"", 1), "header"),
        (good.replacen("\"flows\":2", "\"flows\":2,\"more\":1", 1), "more"),
        (good.replacen("\"flows\":2", "\"flows\":3", 1), "says 3 flows, 2 follow"),
        (lines[..2].join("\n"), "says 2 flows, 1 follow"),
        (lines[..1].join("\n"), "says 2 flows, 0 follow"),
        (cut_line.to_owned(), "says 2 flows, 1 follow"),
        (good.replacen("\"protocol\":6", "\"protocol\":600", 1), "line 2: column"),
        (good.replacen("\"replied\":true", "\"replied\":true,\"also\":1", 1), "unknown field `also`"),
        (good.replacen("10.0.0.5", "10.0.0.500", 1), "line 2"),
        (good.replacen("\"replied\"", "\"\\u001b[31m\"", 1), "unknown field `\\u{1b}[31m`"),
        (good.replacen("\"flows\"", "\"\\u001b[31m\"", 1), "header"),
    ] {
        let fault = read(&text).unwrap_err().to_string();
        assert!(fault.contains(words), "{words:?} is not in {fault:?}");
        assert!(!fault.contains('\u{1b}'), "fit for a terminal: {fault:?}");
    }
}

#[test]
fn a_connection_that_contradicts_itself_is_refused_with_its_line() {
    let change = |change: &dyn Fn(&mut Record)| {
        let mut record = tcp();
        change(&mut record);
        record
    };
    let tcp_side = |change: fn(&mut Side)| {
        let mut record = tcp();
        change(&mut record.tcp.as_mut().unwrap().origin);
        record
    };
    for (record, words) in [
        (change(&|r| r.remote = "fd00::1".parse().unwrap()), "families"),
        (change(&|r| r.state = "alive".to_owned()), "no state"),
        (change(&|r| r.state = "\u{1b}[31m".to_owned()), "\\u{1b}[31m"),
        (change(&|r| r.state = "udp".to_owned()), "no state"),
        (change(&|r| r.state = "icmp".to_owned()), "no state"),
        (change(&|r| r.state = "other".to_owned()), "no state"),
        (change(&|r| r.local_port = None), "local_port"),
        (change(&|r| r.icmp = Some(Query { id: 1, request: 8 })), "icmp"),
        (change(&|r| r.replied = false), "answered"),
        (change(&|r| r.state = "syn_sent".to_owned()), "answered"),
        (change(&|r| r.state = "syn_recv".to_owned()), "answered"),
        (change(&|r| r.tcp = None), "\"tcp\""),
        (Record { tcp: tcp().tcp, ..gre() }, "\"tcp\""),
        (tcp_side(|side| side.scale = Some(15)), "at most 14"),
        (tcp_side(|side| side.window = None), "together"),
        (Record { icmp: Some(Query { id: 1, request: 129 }), ..ping() }, "asks for no answer"),
        (Record { icmp: None, ..ping() }, "icmp"),
        (Record { protocol: 1, ..ping() }, "no state"),
    ] {
        let fault = flows(&[ping(), record], &HERE).unwrap_err().to_string();
        assert!(fault.starts_with("line 3: ") && fault.contains(words), "{words:?} is not in {fault:?}");
    }
    let twice = flows(&[tcp(), ping(), Record { replied: true, ..tcp() }], &HERE).unwrap_err().to_string();
    assert!(twice.contains("line 4: ") && twice.contains("line 2"), "{twice}");
}
