use serde_json::json;

use super::*;

/// The text after the change, and whether it was written anew.
fn changed(text: &str, change: impl Fn(&mut Value)) -> (String, bool) {
    let document = parse(text).unwrap().remove(0);
    let mut target = document.root.to_json();
    change(&mut target);
    let rewrite = rewrite(text, &document, &target).unwrap();
    let out = apply(text, rewrite.edits);
    assert_eq!(parse(&out).unwrap()[0].root.to_json(), target, "{out}");
    (out, rewrite.is_anew)
}

fn in_place(text: &str, change: impl Fn(&mut Value), expected: &str) {
    assert_eq!(changed(text, change), (expected.to_owned(), false));
}

fn front(value: &mut Value) {
    value["l"].as_array_mut().unwrap().insert(0, json!({"name": "new", "x": [1]}));
}

fn back(value: &mut Value) {
    value["l"].as_array_mut().unwrap().push(json!("new"));
}

fn filled(value: &mut Value) {
    value["l"] = json!(["new"]);
}

#[test]
fn items_are_inserted_at_both_ends_of_a_list_and_comments_stay_with_what_they_describe() {
    let text = "a: 1 # one\nl: # the list\n  # about x\n  - name: x # x\n    w: |\n      text\n\n# the end\nz: 'q'\n";
    in_place(
        text,
        front,
        "a: 1 # one\nl: # the list\n  - name: new\n    x:\n      - 1\n  # about x\n  - name: x # x\n    w: |\n      text\n\n# the end\nz: 'q'\n",
    );
    in_place(
        text,
        back,
        "a: 1 # one\nl: # the list\n  # about x\n  - name: x # x\n    w: |\n      text\n\n  - new\n# the end\nz: 'q'\n",
    );
}

#[test]
fn lists_without_indentation_stay_without() {
    in_place("l:\n- name: x\n- y\nz: 1\n", front, "l:\n- name: new\n  x:\n  - 1\n- name: x\n- y\nz: 1\n");
    in_place("l:\n- name: x\n-   y\n", back, "l:\n- name: x\n-   y\n- new\n");
}

#[test]
fn brackets_stay_brackets() {
    in_place("l: [a, b,] # c\n", back, "l: [a, b, \"new\",] # c\n");
    in_place("l: [a]\n", front, "l: [{\"name\": \"new\", \"x\": [1]}, a]\n");
    in_place("{\n\t\"l\": [\n\t\t1\n\t]\n}", back, "{\n\t\"l\": [\n\t\t1,\n\t\t\"new\"\n\t]\n}");
    in_place("{\"l\": []}", filled, "{\"l\": [\"new\"]}");
    in_place("m: {a: 1}\n", |value| value["m"]["k"] = json!("v"), "m: {a: 1, \"k\": \"v\"}\n");
    in_place(
        "m: {\n    a: 1\n  }\n",
        |value| value["m"]["k"] = json!({"x": 1}),
        "m: {\n    a: 1,\n    \"k\": {\n      \"x\": 1\n    }\n  }\n",
    );
}

#[test]
fn nothing_becomes_something() {
    for nothing in ["", " null", " ~", " []", " {}", "\n  []"] {
        in_place(&format!("l:{nothing} # why\nz: 1\n"), filled, "l: # why\n- new\nz: 1\n");
        in_place(&format!("z:\n  - 1\nl:{nothing}"), filled, "z:\n  - 1\nl:\n  - new");
    }
}

#[test]
fn keys_are_added_where_a_mapping_ends() {
    let change = |value: &mut Value| {
        value["m"]["k"] = json!({"a": 1});
        value["o"] = json!(2);
    };
    in_place("m:\n    a: >-\n      b\n      c\n\n", change, "m:\n    a: >-\n      b\n      c\n\n    k:\n      a: 1\no: 2\n");
    in_place(
        "m:\n  a: b # c\n...\n---\n# next\nx: 1\n",
        change,
        "m:\n  a: b # c\n  k:\n    a: 1\no: 2\n...\n---\n# next\nx: 1\n",
    );
    in_place("\"m\" : &m\n  a: [b,\n   c]", change, "\"m\" : &m\n  a: [b,\n   c]\n  k:\n    a: 1\no: 2");
    in_place("m:\r\n  a: b\r\nz: 1\r\n", change, "m:\r\n  a: b\r\n  k:\r\n    a: 1\r\nz: 1\r\no: 2\r\n");
}

#[test]
fn an_alias_gives_way_to_what_it_stood_for() {
    in_place("s: &s\n  a: 1\nm: *s\n", |value| value["m"]["k"] = json!(2), "s: &s\n  a: 1\nm:\n  a: 1\n  k: 2\n");
    in_place(
        "s: &s {a: {b: 1}}\nm:\n  <<: *s\n",
        |value| value["m"]["a"]["k"] = json!(2),
        "s: &s {a: {b: 1}}\nm:\n  <<: *s\n  a:\n    b: 1\n    k: 2\n",
    );
}

#[test]
fn what_others_share_is_written_out() {
    let (text, is_anew) = changed("z: 0\nm: &m\n  a: 0644 # mode\ns: *m\n", |value| value["m"]["k"] = json!("yes"));
    assert_eq!(text, "z: 0\nm:\n  a: 420\n  k: \"yes\"\ns:\n  a: 420\n");
    assert!(is_anew);
}

#[test]
fn what_tags_mean_is_never_guessed() {
    let text = "b: !!binary aGk=\nm: &m {a: 1}\ns: *m\n";
    let document = parse(text).unwrap().remove(0);
    let mut target = document.root.to_json();
    target["m"]["k"] = json!(1);
    assert_eq!(rewrite(text, &document, &target), None);
}

#[test]
fn only_the_document_that_differs_is_touched() {
    let text = "# first\na:   1\n---\nl: [x]\n--- # third\nb: 'x'   \n";
    let documents = parse(text).unwrap();
    let rewrite = rewrite(text, &documents[1], &json!({"l": ["x", "y"]})).unwrap();
    assert_eq!(apply(text, rewrite.edits), "# first\na:   1\n---\nl: [x, \"y\"]\n--- # third\nb: 'x'   \n");
}

#[test]
fn words_are_replaced_and_entries_removed_where_they_stand() {
    let text = "probe: # first\n  httpGet: # how\n    path: /x   # why\n    host: \"\"  # gone\n    port: 'web'\n  # then\n  period: 3 # slow\n";
    in_place(
        text,
        |value| {
            value["probe"]["httpGet"] = json!({"path": "/probe", "port": 15420, "scheme": "HTTP"});
        },
        "probe: # first\n  httpGet: # how\n    path: \"/probe\"   # why\n    port: 15420\n    scheme: HTTP\n  # then\n  period: 3 # slow\n",
    );
    in_place(
        "probe:\n  tcp:\n    port: 1 # one\n  period: 3 # slow\nz: 1\n",
        |value| {
            value["probe"] = json!({"period": 3, "get": {"port": 2}});
        },
        "probe:\n  period: 3 # slow\n  get:\n    port: 2\nz: 1\n",
    );
    in_place(
        "probe:\n  tcp: {port: 1}\nz: 1\n",
        |value| {
            value["probe"] = json!({"get": {"port": 2}});
        },
        "probe:\n  get:\n    port: 2\nz: 1\n",
    );
    in_place("p: {tcp: 1, n: 2} # p\n", |value| value["p"] = json!({"n": 2}), "p: {\"n\": 2} # p\n");
}

#[test]
fn items_that_change_are_known_by_their_names_where_others_are_inserted() {
    let text = "l:\n- name: a # a\n  x: 1 # x\n- name: b # b\n  x: 1\n";
    let change = |value: &mut Value| {
        value["l"][0]["x"] = 2.into();
        value["l"].as_array_mut().unwrap().insert(0, json!({"name": "new"}));
    };
    in_place(text, change, "l:\n- name: new\n- name: a # a\n  x: 2 # x\n- name: b # b\n  x: 1\n");
}
