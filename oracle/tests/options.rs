//! Options that random traffic hardly ever makes, before both judges.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail the way tests do")]

use serde_json::{Value, json};
use sg_common::verdict::Reason::{self, Established, NewFlow, SourceRoute, TcpWindow};
use sg_oracle::frame::{ACK, FIRST, Packet, RST, SYN};
use sg_oracle::traffic::Step;
use sg_oracle::trial::{ROOM, Trial};

fn trial() -> Trial {
    let files: Value = json!({
        "version": 1, "project": "shop", "vpc": "main",
        "security_groups": [{ "name": "outward" }],
        "interfaces": [{ "name": "sg0", "addresses": ["10.0.0.5"], "security_groups": ["outward"] }],
    });
    Trial::new(&[files], ROOM)
}

fn judged(trial: &mut Trial, outbound: bool, packet: &Packet) -> Reason {
    let (device, frame) = ("sg0".to_owned(), packet.frame());
    trial.step(&Step::Frame { device, ingress: outbound, frame }).unwrap().unwrap().reason
}

/// The same segment with options, and with data behind them.
fn with_options(mut segment: Packet, options: &[u8], data: &[u8]) -> Packet {
    assert_eq!(options.len() % 4, 0);
    segment.payload[12] = (((20 + options.len()) / 4) << 4) as u8;
    segment.payload.extend(options);
    segment.payload.extend(data);
    segment
}

/// The window that a side has offered after a handshake in which its SYN had these options, and the other's a scale.
fn window(options: &[u8], data: &[u8]) -> u32 {
    let mut trial = trial();
    let syn = Packet::tcp("10.0.0.5:4000".parse().unwrap(), "8.8.8.8:80".parse().unwrap(), SYN);
    assert_eq!(judged(&mut trial, true, &with_options(syn.clone(), options, data)), NewFlow);
    let sent = FIRST + 1 + data.len() as u32;
    let answer = with_options(syn.answer(SYN | ACK).sequence(FIRST, sent), &[3, 3, 2, 0], &[]);
    assert_eq!(judged(&mut trial, false, &answer), Established);
    let mut last = syn.then(ACK).sequence(sent, FIRST + 1);
    last.payload[14..16].copy_from_slice(&1000u16.to_be_bytes());
    assert_eq!(judged(&mut trial, true, &last), Established);
    let window = trial.host().entries()[0].flow.sequence[2];
    // Both judges must agree about where the window ends.
    for (far, reason) in [(window - 1, Established), (window, TcpWindow)] {
        let reset = syn.answer(RST).sequence(FIRST + 1 + far, 0);
        assert_eq!(judged(&mut trial, false, &reset), reason, "{far} of {window}: {options:?}");
    }
    window
}

#[test]
fn spec_d12_the_window_scale_is_where_rfc_7323_puts_it() {
    let after = |nops: usize| {
        let mut options = vec![1; nops];
        options.extend([3, 3, 5]);
        options.resize(options.len().next_multiple_of(4), 0);
        options
    };
    for (options, scale) in [
        (after(0), Some(5)),
        (after(1), Some(5)),
        (after(11), Some(5)),
        // Twelve options are looked at.
        (after(12), None),
        (after(13), None),
        (vec![3, 3, 0, 0], Some(0)),
        (vec![3, 3, 14, 0], Some(14)),
        (vec![3, 3, 15, 0], Some(14)),
        (vec![3, 3, 254, 0], Some(14)),
        (vec![3, 3, 255, 0], Some(14)),
        // The list has ended.
        (vec![0, 3, 3, 5], None),
        (vec![0, 2, 3, 3, 5, 0, 0, 0], None),
        // Other options are stepped over.
        (vec![2, 4, 5, 180, 3, 3, 5, 0], Some(5)),
        (vec![8, 10, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5, 0, 0, 0], Some(5)),
        (vec![4, 2, 3, 3, 5, 0, 0, 0], Some(5)),
        // Of another length it is another option.
        (vec![3, 4, 5, 0], None),
        (vec![3, 2, 3, 3, 5, 0, 0, 0], Some(5)),
        // A length that cannot be ends the list.
        (vec![2, 1, 3, 3, 5, 0, 0, 0], None),
        (vec![2, 0, 3, 3, 5, 0, 0, 0], None),
        (vec![], None),
    ] {
        assert_eq!(window(&options, &[]), 1000 << scale.unwrap_or(0), "{options:?}");
    }
    // What lies behind the header is data.
    for options in [&[1, 1, 3, 3], &[1, 1, 1, 3], &[1, 1, 1, 1]] {
        assert_eq!(window(options, &[3, 3, 5, 3, 3, 5]), 1000, "{options:?}");
    }
    assert_eq!(window(&[1, 3, 3, 5], &[3, 3, 6]), 1000 << 5);
}

#[test]
fn spec_6_source_routes_are_found_wherever_the_list_has_them() {
    let packet = |options: &[u8]| {
        Packet::udp("10.0.0.5:4000".parse().unwrap(), "8.8.8.8:53".parse().unwrap(), b"?").options(options)
    };
    let last = |route: u8| {
        let mut options = [1; 40];
        options[39] = route;
        options.to_vec()
    };
    for (options, routed) in [
        (vec![131, 4, 4, 0], true),
        (vec![137, 4, 4, 0], true),
        (vec![1, 1, 1, 131], true),
        (last(137), true),
        (last(1), false),
        (vec![7, 4, 4, 131], false),
        (vec![7, 4, 4, 4, 131, 4, 4, 0], true),
        (vec![7, 2, 131, 3, 4, 0, 0, 0], true),
        (vec![0, 131, 4, 4], false),
        (vec![0, 2, 131, 4], false),
        (vec![7, 1, 131, 3], false),
        (vec![7, 0, 131, 3], false),
        (vec![7, 5, 4, 4, 131, 131, 4, 4], true),
        (vec![7, 6, 4, 4, 131, 131, 7, 2], false),
        (vec![7, 200, 4, 4], false),
    ] {
        let reason = if routed { SourceRoute } else { NewFlow };
        assert_eq!(judged(&mut trial(), true, &packet(&options)), reason, "{options:?}");
    }
    // No options: what follows the header is no list of them.
    let port = Packet::udp("10.0.0.5:33667".parse().unwrap(), "8.8.8.8:53".parse().unwrap(), b"?");
    assert_eq!(port.payload[0], 131);
    assert_eq!(judged(&mut trial(), true, &port), NewFlow);
    assert_eq!(judged(&mut trial(), true, &port.options(&[1, 1, 1, 1])), NewFlow);
}
