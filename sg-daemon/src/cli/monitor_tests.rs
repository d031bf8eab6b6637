use super::*;

#[test]
fn numbers_are_told_in_thousands() {
    for (number, text) in
        [(0, "0"), (999, "999"), (1000, "1,000"), (12_345, "12,345"), (1_234_567, "1,234,567")]
    {
        assert_eq!(thousands(number), text);
    }
}

#[test]
fn a_packet_is_a_line() {
    let json = r#"{"time":"2026-11-24T13:30:01.000123Z","interface":"tap0","ifindex":7,"direction":"inbound",
        "hook":"egress","verdict":"drop","reason":"no_rule","protocol":"tcp","source":"198.51.100.7","source_port":40000,
        "destination":"10.0.0.5","destination_port":22,"tcp_flags":"S","bytes":54,"generation":3}"#;
    let MonitorLine::Packet(packet) = serde_json::from_str(json).unwrap() else { panic!("no packet") };
    assert_eq!(
        packet_line(&packet),
        "13:30:01.000123  tap0      in   DROP        no_rule       tcp    198.51.100.7:40000 → 10.0.0.5:22  S  54 bytes"
    );
    let lost = MonitorLost { lost: 1234, limited: 1000, full: 0, slow: 234 };
    assert_eq!(lost_line(&lost), "… 1,234 events lost (faster than --rate, not read fast enough)");
}
