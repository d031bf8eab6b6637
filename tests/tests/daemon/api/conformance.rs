//! The OpenAPI document and the server say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sg_tests::{Daemon, binary};

use super::{Answer, JSON, ask, connect, get, site};

/// One request and what must come of it.
struct Row {
    method: &'static str,
    /// As in the document.
    route: &'static str,
    /// What is asked for, without the host.
    path: String,
    headers: String,
    body: Vec<u8>,
    status: u16,
}

fn row(method: &'static str, route: &'static str, path: impl Into<String>, body: &Value, status: u16) -> Row {
    let (headers, body) = if body.is_null() {
        (String::new(), Vec::new())
    } else {
        (JSON.to_owned(), body.to_string().into_bytes())
    };
    Row { method, route, path: path.into(), headers, body, status }
}

/// In this order: each finds what those before it have left.
fn rows(policy: &str, tag: &str) -> Vec<Row> {
    let none = Value::Null;
    let same = json!({ "files": [{ "name": "p.json", "text": policy }] });
    let confirm = json!({ "files": [{ "name": "p.json", "text": policy }], "confirm_seconds": 600 });
    let faulty = json!({ "files": [{ "name": "p.json", "text": "{}" }] });
    let question = |name: &str| json!({ "interface": name, "direction": "inbound", "protocol": "tcp", "remote": "192.0.2.1", "port": 80 });
    let rule = json!({ "protocol": "TCP", "source": "192.0.2.0/24", "port": "8080" });
    let remove = "/v1/groups/{name}/rules/{direction}/{index}";
    let attach = "/v1/interfaces/{name}/groups/{group}";
    let mut rows = vec![
        row("GET", "/v1/openapi.json", "/v1/openapi.json", &none, 200),
        row("GET", "/v1/status", "/v1/status", &none, 200),
        row("GET", "/v1/flows", "/v1/flows", &none, 200),
        row("GET", "/v1/flows", "/v1/flows?port=many", &none, 400),
        row("GET", "/v1/flows/count", "/v1/flows/count?by=interface,state", &none, 200),
        row("GET", "/v1/flows/count", "/v1/flows/count?by=colour", &none, 400),
        row("GET", "/v1/stats", "/v1/stats?talkers=5", &none, 200),
        row("GET", "/v1/stats", "/v1/stats?talkers=many", &none, 400),
        row("GET", "/v1/names", "/v1/names", &none, 200),
        row("GET", "/v1/flows/export", "/v1/flows/export?interface=tap0", &none, 200),
        row("GET", "/v1/flows/export", "/v1/flows/export?interface=tap9", &none, 404),
        row("GET", "/v1/flows/export", "/v1/flows/export", &none, 400),
        row("GET", "/v1/flows/export", "/v1/flows/export?interface=tap0&more=1", &none, 400),
        row("POST", "/v1/flows/import", "/v1/flows/import", &json!("x"), 400),
        row("POST", "/v1/explain", "/v1/explain", &question("tap0"), 200),
        row("POST", "/v1/explain", "/v1/explain", &question("tap9"), 404),
        row("POST", "/v1/explain", "/v1/explain", &json!({ "interface": 1 }), 400),
        row("POST", "/v1/flows/revoke", "/v1/flows/revoke", &json!({ "dry_run": true }), 200),
        row("POST", "/v1/flows/revoke", "/v1/flows/revoke", &json!({ "interface": "tap9" }), 404),
        row("POST", "/v1/flows/revoke", "/v1/flows/revoke", &json!({ "all": true }), 400),
        row("GET", "/v1/interfaces", "/v1/interfaces", &none, 200),
        row("GET", "/v1/interfaces/{name}", "/v1/interfaces/tap0", &none, 200),
        row("GET", "/v1/interfaces/{name}", "/v1/interfaces/a%2fb%00", &none, 200),
        row("GET", "/v1/rules/hits", "/v1/rules/hits", &none, 200),
        row("GET", "/v1/monitor", "/v1/monitor?port=many", &none, 400),
        row("GET", "/v1/groups", "/v1/groups?vpc=main", &none, 200),
        row("GET", "/v1/groups", "/v1/groups?vcp=main", &none, 400),
        row("GET", "/v1/groups/{name}", "/v1/groups/default?project=shop", &none, 200),
        row("GET", "/v1/groups/{name}", "/v1/groups/wbes", &none, 404),
        row("GET", "/v1/groups/{name}", "/v1/groups/%ff", &none, 400),
        row("GET", "/v1/peers", "/v1/peers", &none, 200),
        row("GET", "/v1/policy/files", "/v1/policy/files", &none, 200),
        row("GET", "/v1/flows", "/v1/flows?sort=bytes", &none, 409),
        row("GET", "/v1/flows/count", "/v1/flows/count?by=group,rule", &none, 200),
        row("POST", "/v1/policy/diff", "/v1/policy/diff", &same, 200),
        row("POST", "/v1/policy/diff", "/v1/policy/diff", &faulty, 422),
        row("POST", "/v1/policy/plan", "/v1/policy/plan", &json!({}), 200),
        row("POST", "/v1/policy/plan", "/v1/policy/plan", &faulty, 422),
        row("POST", "/v1/policy/apply", "/v1/policy/apply", &json!({}), 200),
        row("POST", "/v1/policy/apply", "/v1/policy/apply", &faulty, 422),
        row("POST", "/v1/policy/apply", "/v1/policy/apply", &json!({ "confirm_seconds": 0 }), 400),
        row("POST", "/v1/policy/rollback", "/v1/policy/rollback", &none, 409),
        row("POST", "/v1/policy/confirm", "/v1/policy/confirm", &none, 409),
        row("POST", "/v1/policy/apply", "/v1/policy/apply", &confirm, 200),
        row("POST", "/v1/policy/apply", "/v1/policy/apply", &confirm, 409),
        row("POST", "/v1/groups", "/v1/groups", &json!({ "name": "early" }), 409),
        row("POST", "/v1/policy/confirm", "/v1/policy/confirm", &none, 200),
        row("POST", "/v1/policy/apply", "/v1/policy/apply", &confirm, 200),
        row("POST", "/v1/policy/rollback", "/v1/policy/rollback", &none, 200),
        row("POST", "/v1/groups", "/v1/groups?dry_run=true", &json!({ "name": "dry-run" }), 200),
        row("POST", "/v1/groups", "/v1/groups", &json!({ "name": "new-one", "inbound": [rule] }), 200),
        row("POST", "/v1/groups", "/v1/groups", &json!({ "name": "new-one" }), 409),
        row("POST", "/v1/groups", "/v1/groups", &json!({ "name": "x" }), 400),
        row("POST", "/v1/groups", "/v1/groups?vpc=other", &json!({ "name": "other-one" }), 404),
        row("POST", "/v1/groups", "/v1/groups", &json!({ "name": "bad-rule", "inbound": [{}] }), 422),
        row(
            "POST",
            "/v1/groups/{name}/copy",
            "/v1/groups/new-one/copy",
            &json!({ "names": ["copy-one", "copy-two"] }),
            200,
        ),
        row(
            "POST",
            "/v1/groups/{name}/copy",
            "/v1/groups/new-one/copy",
            &json!({ "names": ["copy-one"] }),
            409,
        ),
        row(
            "POST",
            "/v1/groups/{name}/copy",
            "/v1/groups/new-two/copy",
            &json!({ "names": ["copy-three"] }),
            404,
        ),
        row(
            "POST",
            "/v1/groups/{name}/rules/{direction}",
            "/v1/groups/new-one/rules/inbound",
            &json!({ "protocol": "ICMP", "source": "@webs" }),
            200,
        ),
        row("POST", "/v1/groups/{name}/rules/{direction}", "/v1/groups/new-one/rules/sideways", &rule, 400),
        row("POST", "/v1/groups/{name}/rules/{direction}", "/v1/groups/new-one/rules/outbound", &rule, 422),
        row("DELETE", remove, "/v1/groups/new-one/rules/inbound/0", &none, 428),
    ];
    for (tag, status) in [("000000000000", 412), (tag, 200), (tag, 412)] {
        let headers = format!("if-match: \"{tag}\"\r\n");
        rows.push(Row {
            headers,
            ..row("DELETE", remove, "/v1/groups/new-one/rules/inbound/0", &none, status)
        });
    }
    rows.extend([
        row("PUT", attach, "/v1/interfaces/tap0/groups/new-one", &none, 200),
        row("PUT", attach, "/v1/interfaces/tap0/groups/new-one", &none, 200),
        row("PUT", attach, "/v1/interfaces/tap9/groups/new-one", &none, 404),
        row("DELETE", "/v1/groups/{name}", "/v1/groups/new-one", &none, 409),
        row("DELETE", attach, "/v1/interfaces/tap0/groups/new-one", &none, 200),
        row("DELETE", attach, "/v1/interfaces/tap0/groups/new-one", &none, 404),
        row("DELETE", attach, "/v1/interfaces/tap0/groups/webs", &none, 409),
        row("PUT", "/v1/peers/{address}", "/v1/peers/198.51.100.7", &json!({ "security_groups": ["new-one"] }), 200),
        row("PUT", "/v1/peers/{address}", "/v1/peers/nobody", &json!({ "security_groups": ["new-one"] }), 400),
        row("DELETE", "/v1/peers/{address}", "/v1/peers/198.51.100.7?group=webs", &none, 404),
        row("DELETE", "/v1/peers/{address}", "/v1/peers/198.51.100.7", &none, 200),
        row("DELETE", "/v1/groups/{name}", "/v1/groups/new-one", &none, 200),
        row("DELETE", "/v1/groups/{name}", "/v1/groups/default", &none, 409),
        row("POST", "/v1/policy/edit", "/v1/policy/edit", &json!({ "edits": [
            { "edit": "group_delete", "name": "copy-one" }, { "edit": "group_delete", "name": "copy-two" } ] }), 200),
        row("POST", "/v1/policy/edit", "/v1/policy/edit", &json!({ "edits": [] }), 400),
        row("POST", "/v1/policy/edit", "/v1/policy/edit", &json!({ "edits": [{ "edit": "reboot" }] }), 400),
    ]);
    rows
}

/// With every object closed: a field that is not documented is a fault.
fn closed(schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let mut new: serde_json::Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), closed(value))).collect();
            if fields.get("properties").is_some_and(Value::is_object) {
                new.entry("additionalProperties").or_insert(json!(false));
            }
            new.into()
        }
        Value::Array(values) => values.iter().map(closed).collect(),
        other => other.clone(),
    }
}

struct Document(Value);

impl Document {
    fn operation(&self, method: &str, route: &str) -> &Value {
        &self.0["paths"][route][method.to_ascii_lowercase()]
    }

    /// The answer is one that the operation has, in its form.
    fn check(&self, method: &str, route: &str, answer: &Answer) {
        let status = answer.status.to_string();
        let response = &self.operation(method, route)["responses"][&status];
        let what = format!("{method} {route}: {status}: {}", String::from_utf8_lossy(&answer.body));
        assert!(response.is_object(), "not documented: {what}");
        let content = response["content"].as_object().unwrap_or_else(|| panic!("no content: {what}"));
        let media = answer.header("content-type").unwrap_or_default();
        let (_, media) =
            content.iter().find(|(name, _)| *name == media).unwrap_or_else(|| panic!("{media}: {what}"));
        let Some(schema) = media.get("schema") else { return };
        let schema = json!({ "allOf": [closed(schema)], "components": closed(&self.0["components"]) });
        let validator = jsonschema::validator_for(&schema).unwrap();
        if let Err(error) = validator.validate(&answer.json()) {
            panic!("{error} at {}: {what}", error.instance_path());
        }
    }

    fn operations(&self) -> BTreeMap<String, BTreeSet<String>> {
        let paths = self.0["paths"].as_object().unwrap();
        let methods =
            |item: &Value| item.as_object().unwrap().keys().map(|name| name.to_ascii_uppercase()).collect();
        paths.iter().map(|(path, item)| (path.clone(), methods(item))).collect()
    }
}

/// What a validator of others says of a document: the OpenAPI Initiative's schema and that of schemas, references that lead nowhere,
/// parts of paths that are not described, and names that are used twice.
fn validate(document: &Value) -> Result<(), String> {
    let mut validator = Command::new("openapi-spec-validator")
        .arg("-")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openapi-spec-validator cannot be run: `cargo xtask setup` installs it");
    validator.stdin.take().unwrap().write_all(document.to_string().as_bytes()).unwrap();
    let output = validator.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

#[test]
fn the_openapi_document_is_one_as_the_openapi_initiative_says() {
    let printed = Command::new(binary("sgctl").unwrap()).arg("openapi").output().unwrap();
    let document: Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(validate(&document), Ok(()));
    // What a client is made from needs a name for each operation, which the initiative does not ask for.
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["operationId"].as_str().is_some_and(|id| !id.is_empty()), "{method} {path}");
        }
    }
    // A document with a fault is none.
    let faults = [
        ("/info", json!({}), "'title' is a required property"),
        ("/paths/~1v1~1status/get/responses", json!({ "ok": {} }), "'ok' was unexpected"),
        ("/paths/~1v1~1status/get/parameters", json!([{ "name": "x" }]), "'in' is a required property"),
        ("/paths/~1v1~1status/get/operationId", json!("getStats"), "is not unique"),
        ("/paths/~1v1~1groups~1{name}/get/parameters", json!([]), "was not resolved"),
        ("/components/schemas/Status/type", json!("objekt"), "'objekt' is not valid"),
        (
            "/components/schemas/Status/properties/tables",
            json!({ "$ref": "#/components/schemas/No" }),
            "'/components/schemas/No' does not exist",
        ),
    ];
    std::thread::scope(|scope| {
        for (pointer, wrong, complaint) in faults {
            let mut faulty = document.clone();
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            faulty.pointer_mut(parent).unwrap()[field] = wrong;
            scope.spawn(move || {
                let said = validate(&faulty).unwrap_err();
                assert!(said.contains(complaint), "{pointer}: {said}");
            });
        }
    });
}

/// The policy's files are handed out as they are, faulty or not.
#[test]
fn the_policy_files_are_read_as_they_are() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let socket = daemon.socket();
    let files = || get(&socket, "/v1/policy/files").json();
    let path = daemon.policy_path();
    let file = |text: &str, bom: bool| json!([{ "path": path, "text": text, "byte_order_mark": bom }]);
    assert_eq!(files(), json!({ "files": file(&text, false), "faults": [], "refused": null }));
    let faulty = "\u{feff}{ \"version\": 1,\n";
    std::fs::write(&path, faulty).unwrap();
    let read = files();
    assert_eq!(read["files"], file(faulty.trim_start_matches('\u{feff}'), true));
    crate::world::wait("it is refused", || files()["refused"].is_string());
    std::fs::remove_file(&path).unwrap();
    let read = files();
    assert_eq!(read["files"], json!([]));
    assert!(read["faults"][0].as_str().unwrap().contains("policy.json"), "{read:#}");
}

/// Each route of the server is in the document and the other way round; each answer is in the form that the document says.
#[test]
fn every_answer_is_as_the_openapi_document_says_and_every_operation_answers() {
    let (world, text) = site();
    let daemon = Daemon::start(&world.site, &text).unwrap();
    let socket = daemon.socket();
    let document = Document(get(&socket, "/v1/openapi.json").json());
    let printed = Command::new(binary("sgctl").unwrap()).arg("openapi").output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&printed.stdout).unwrap(), document.0, "sgctl openapi");

    // The tag of the rule that will be there, as another group has it.
    let rule = json!({ "protocol": "TCP", "source": "192.0.2.0/24", "port": 8080 });
    let probe = json!({ "edits": [
        { "edit": "group_create", "name": "probe", "inbound": [rule] } ] });
    assert_eq!(super::send(&socket, "POST", "/v1/policy/edit", &probe).status, 200);
    let tag = get(&socket, "/v1/groups/probe").json()["inbound"][0]["tag"].as_str().unwrap().to_owned();
    assert_eq!(ask(&socket, "DELETE", "/v1/groups/probe", "", b"").status, 200);

    let mut answered = BTreeSet::new();
    for Row { method, route, path, headers, body, status } in rows(&text, &tag) {
        let answer = ask(&socket, method, &path, &headers, &body);
        let said = String::from_utf8_lossy(&answer.body);
        assert_eq!(answer.status, status, "{method} {path} {}: {said}", String::from_utf8_lossy(&body));
        document.check(method, route, &answer);
        if status != 200 {
            assert!(answer.error().len() > 10, "{method} {path}: {said}");
        } else {
            answered.insert((method.to_owned(), route.to_owned()));
        }
    }
    // What came out of an export goes in again.
    let export = get(&socket, "/v1/flows/export?interface=tap0");
    let import = ask(&socket, "POST", "/v1/flows/import?interface=tap0", "", &export.body);
    assert_eq!(import.status, 200, "{}", String::from_utf8_lossy(&import.body));
    document.check("POST", "/v1/flows/import", &import);
    answered.insert(("POST".to_owned(), "/v1/flows/import".to_owned()));

    // This one has no end.
    let mut stream = connect(&socket);
    stream.write_all(b"GET /v1/monitor HTTP/1.1\r\nhost: sgd\r\n\r\n").unwrap();
    let mut head = [0; 15];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    drop(stream);
    answered.insert(("GET".to_owned(), "/v1/monitor".to_owned()));

    for (route, methods) in document.operations() {
        for method in &methods {
            assert!(
                answered.contains(&(method.clone(), route.clone())),
                "no row of this test is answered by {method} {route}: add one to `rows`"
            );
        }
        // And no other method.
        let path = route.replace(['{', '}'], "");
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH"] {
            if methods.contains(method) {
                continue;
            }
            let answer = ask(&socket, method, &path, "", b"");
            assert_eq!(answer.status, 405, "{method} {path}");
            let allowed: BTreeSet<String> = answer
                .header("allow")
                .unwrap()
                .split(',')
                .map(|method| method.trim().to_ascii_uppercase())
                .filter(|method| method != "HEAD")
                .collect();
            assert_eq!(allowed, methods, "{route}");
            assert!(answer.error().contains("Allow"), "{}", answer.error());
        }
    }
    let answer = get(&socket, "/v1/nothing");
    assert!(answer.status == 404 && answer.error().contains("sgctl openapi"), "{answer:?}");
}
