//! `enforcement` of interfaces and groups.

use sg_daemon::policy::Severity;
use sg_daemon::policy::model::{AuditBy, GroupId};

use crate::{fault, good, policy as with};

/// One interface and two groups with these further fields.
fn text(interface: &str, web: &str, ops: &str) -> String {
    with(&format!(
        r#""settings": {{ "metadata": "exempt" }},
"security_groups": [
{{ "name": "webs"{web} }},
{{ "name": "oper"{ops} }}],
"interfaces": [
{{ "name": "tap0", "mac": "52:54:00:12:34:56", "addresses": ["10.0.0.5"], "security_groups": ["webs", "oper"]{interface} }}]"#
    ))
}

const AUDIT: &str = r#", "enforcement": "audit""#;
const ENFORCE: &str = r#", "enforcement": "enforce""#;

#[test]
fn an_interface_is_in_audit_if_it_says_so_or_one_of_its_groups_does() {
    for (interface, web, ops, by) in [
        ("", "", "", None),
        (ENFORCE, ENFORCE, ENFORCE, None),
        (AUDIT, "", "", Some(AuditBy::Interface)),
        (AUDIT, AUDIT, "", Some(AuditBy::Interface)),
        ("", AUDIT, "", Some(AuditBy::Group(GroupId(0)))),
        // A group that enforces does not take back what another says, nor does the interface.
        ("", ENFORCE, AUDIT, Some(AuditBy::Group(GroupId(1)))),
        (ENFORCE, "", AUDIT, Some(AuditBy::Group(GroupId(1)))),
        (r#", "enforcement": "audit", "kind": "bare_metal""#, AUDIT, "", None),
    ] {
        let model = good(&text(interface, web, ops)).model;
        assert_eq!(model.audit(&model.interfaces[0]), by, "{interface} {web} {ops}");
    }
}

#[test]
fn check_says_where_nothing_is_dropped() {
    let audited = |interface: &str, web: &str| -> Vec<String> {
        let lints = good(&text(interface, web, "")).lints.into_iter();
        lints
            .filter(|lint| lint.message.contains("audit"))
            .inspect(|lint| assert_eq!((lint.severity, lint.line), (Severity::Warning, Some(8))))
            .map(|lint| format!("{}: {}", lint.field, lint.message))
            .collect()
    };
    let passes = "everything passes, what would be dropped is only counted";
    assert_eq!(audited("", ""), Vec::<String>::new());
    assert_eq!(
        audited(AUDIT, ""),
        [format!(
            "interfaces[0].enforcement: interface \"tap0\" is in audit (the interface says so): {passes}"
        )]
    );
    assert_eq!(
        audited("", AUDIT),
        [format!(
            "interfaces[0].security_groups: interface \"tap0\" is in audit (its group \"webs\" says so): {passes}"
        )]
    );
}

#[test]
fn another_word_is_a_fault_that_suggests_the_near_one() {
    for (word, suggestion) in [
        ("\"off\"", None),
        ("\"Audit\"", Some("did you mean \"audit\"?")),
        ("\"enforced\"", Some("did you mean \"enforce\"?")),
    ] {
        for (text, field) in [
            (text(&format!(", \"enforcement\": {word}"), "", ""), "interfaces[0].enforcement"),
            (text("", &format!(", \"enforcement\": {word}"), ""), "security_groups[0].enforcement"),
        ] {
            let fault = fault(&text);
            assert_eq!((fault.field.as_str(), fault.message), (field, format!("unknown value {word}")));
            assert_eq!(fault.suggestion.as_deref(), suggestion);
            assert_eq!(fault.expected.as_deref(), Some("\"enforce\" or \"audit\""));
        }
    }
    assert_eq!(fault(&text(", \"enforcement\": true", "", "")).message, "found true");
    assert_eq!(
        fault(&text(", \"enforcment\": \"audit\"", "", "")).suggestion.as_deref(),
        Some("did you mean \"enforcement\"?")
    );
}
