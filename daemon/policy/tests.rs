#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! What loading refuses and what deciding does when a rule goes wrong. What the shipped rules
//! answer is in `policies/cases`, which the first test runs.

use super::*;
use std::path::Path;

const SITE: &str = "site.cedar";

fn shipped() -> PolicySet {
    PolicySet::load(Path::new("policies")).unwrap()
}

/// The shipped rules and one more file.
fn with_site_rule(text: &str) -> Result<PolicySet, LoadError> {
    let source = |name: &str, text: &str| Source { name: name.to_owned(), text: text.to_owned() };
    let [schema, files @ ..] = BUILT_IN.map(|(name, text)| source(name, text));
    PolicySet::from_sources(&schema, &[files.to_vec(), vec![source(SITE, text)]].concat())
}

fn refused(text: &str) -> String {
    with_site_rule(text).expect_err("the rule is accepted").to_string()
}

fn request(roles: &[&str], action: Action, resource: Resource) -> Request {
    Request {
        principal: Principal { name: "tess".to_owned(), roles: roles.iter().map(|role| (*role).to_owned()).collect() },
        action,
        resource,
        facts: Facts { purpose: "research".to_owned(), ..Facts::default() },
    }
}

fn cleaned_notes() -> Resource {
    Resource::Dataset(Dataset {
        id: "notes".to_owned(),
        label: Label::Internal,
        purposes: ["research".to_owned()].into(),
        cleaned: true,
        ..Dataset::default()
    })
}

fn denial(decision: Decision) -> Denial {
    match decision {
        Decision::Deny(denial) => denial,
        Decision::Allow { rules } => panic!("allowed by {rules:?}"),
    }
}

#[test]
fn the_shipped_rules_answer_the_shipped_cases_and_no_rule_is_untested() {
    let report = shipped().check_cases(Path::new("policies/cases")).unwrap();
    let failures: Vec<String> = report.failures().map(ToString::to_string).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(report.results.len() > 40);
    assert_eq!(report.untested_rules, Vec::<String>::new());
}

#[test]
fn a_case_that_expects_the_wrong_answer_fails() {
    let dir = tempfile::tempdir().unwrap();
    let case = r#"
        given.base = { type = "Model" }
        [[case]]
        name = "wrong"
        who = { name = "uma", roles = ["user"] }
        action = "Infer"
        resource = "base"
        expect = "deny"
        rule = "default-deny"
    "#;
    std::fs::write(dir.path().join("wrong.toml"), case).unwrap();
    let report = shipped().check_cases(dir.path()).unwrap();
    assert_eq!(report.failures().count(), 1);
    assert!(report.untested_rules.contains(&"users-infer".to_owned()));

    std::fs::write(dir.path().join("wrong.toml"), case.replace("Model", "Modle")).unwrap();
    let error = shipped().check_cases(dir.path()).unwrap_err().to_string();
    assert!(error.contains("wrong.toml") && error.contains("Modle"), "{error}");
}

#[test]
fn the_built_in_rules_are_the_ones_in_the_folder() {
    assert_eq!(PolicySet::built_in().unwrap().digest(), shipped().digest());
}

#[test]
fn the_digest_changes_with_any_rule() {
    let site = r#"@id("x") @reason("x") permit (principal, action, resource);"#;
    assert_ne!(with_site_rule(site).unwrap().digest(), shipped().digest());
}

#[test]
fn an_erroring_forbid_denies() {
    // 9223372036854775807 + records overflows: Cedar skips the rule, which must not let through.
    let set = with_site_rule(
        r#"@id("overflows") @reason("r") @remedy("m")
           forbid (principal, action == Action::"Train", resource)
           when { 9223372036854775807 + resource.records < 0 };"#,
    )
    .unwrap();
    let mut resource = cleaned_notes();
    let asked = request(&["trainer"], Action::Train, resource.clone());
    assert!(set.decide(&asked).is_allow(), "0 records do not overflow");

    let Resource::Dataset(dataset) = &mut resource else { panic!() };
    dataset.records = 1;
    let asked = request(&["trainer"], Action::Train, resource);
    let denial = denial(set.decide(&asked));
    assert_eq!(denial.rule, POLICY_ERROR);
    assert!(denial.reason.contains("`overflows`"), "{denial}");
    let trace = set.explain(&asked).rules.into_iter().find(|rule| rule.id == "overflows").unwrap();
    assert_eq!((trace.outcome, trace.decided), (Outcome::Failed, true));
}

#[test]
fn a_site_permit_cannot_undo_a_forbid() {
    let site = r#"@id("all") @reason("all") permit (principal, action, resource);"#;
    let set = with_site_rule(site).unwrap();
    let asked = request(&["administrator"], Action::ExportDataset, cleaned_notes());
    assert_eq!(denial(set.decide(&asked)).rule, "datasets-never-leave");
    let phi = Resource::Dataset(Dataset {
        id: "notes".to_owned(),
        cleaned: true,
        plugins: ["redact".to_owned()].into(),
        ..Dataset::default()
    });
    let asked = request(&["administrator"], Action::SampleDataset, phi);
    assert_eq!(denial(set.decide(&asked)).rule, "only-stewards-sample-sensitive-records");
    let adapter = Adapter { id: "a".to_owned(), deployed: true, ..Adapter::default() };
    let asked = request(&["approver"], Action::Infer, Resource::Adapter(adapter));
    assert_eq!(denial(set.decide(&asked)).rule, "hipaa-inference-needs-the-user-role");
}

#[test]
fn default_deny_says_which_role_would_do() {
    let asked = request(&["user"], Action::Train, cleaned_notes());
    let denial = denial(shipped().decide(&asked));
    assert_eq!(denial.rule, DEFAULT_DENY);
    assert!(denial.remedy.contains("`trainer`"), "{denial}");
    assert!(!denial.remedy.contains("`user`"), "{denial}");
}

#[test]
fn a_denial_is_filled_with_the_facts() {
    let adapter = Adapter {
        id: "summariser".to_owned(),
        trained_by: "tom".to_owned(),
        evaluated: true,
        evaluation_passed: true,
        ..Adapter::default()
    };
    let mut asked = request(&["approver"], Action::Serve, Resource::Adapter(adapter));
    asked.facts.distinct_approvers = 1;
    let denial = denial(shipped().decide(&asked));
    assert!(denial.reason.contains("1 of 2 people"), "{denial}");
    assert!(denial.reason.contains("`tom`") && !denial.to_string().contains('{'), "{denial}");
    assert!(denial.remedy.contains("cloister adapter approve summariser"), "{denial}");
}

#[test]
fn an_explanation_shows_rules_that_decided_and_rules_that_did_not() {
    let asked = request(&["trainer"], Action::Train, cleaned_notes());
    let explanation = shipped().explain(&asked);
    let trace = |id: &str| explanation.rules.iter().find(|rule| rule.id == id).unwrap();
    assert!(trace("trainers-train").decided);
    assert_eq!(trace("purpose-limitation").outcome, Outcome::DoesNotApply);
    assert!(explanation.rules.iter().all(|rule| rule.id != "users-infer"));
    assert!(explanation.facts.contains(&("resource.records".to_owned(), "0".to_owned())));
    let text = explanation.to_string();
    assert!(text.contains("* permit trainers-train (baseline.cedar:"), "{text}");
}

#[test]
fn an_unknown_attribute_is_refused_with_file_and_line() {
    let error = refused(
        "\n@id(\"typo\") @reason(\"r\") @remedy(\"m\")\nforbid (principal, action == Action::\"Train\", resource)\nwhen { resource.recrods == 0 };",
    );
    assert!(error.contains("`site.cedar` line 4") && error.contains("recrods"), "{error}");
}

#[test]
fn an_unknown_role_label_or_action_is_refused() {
    for (what, rule) in [
        ("stewrad", r#"permit (principal in Role::"stewrad", action, resource);"#),
        (
            "phii",
            r#"permit (principal, action == Action::"Train", resource) when { resource.label == Label::"phii" };"#,
        ),
        ("Trian", r#"permit (principal, action == Action::"Trian", resource);"#),
    ] {
        let error = refused(&format!(r#"@id("typo") @reason("r") {rule}"#));
        assert!(error.contains("`site.cedar` line 1") && error.contains(what), "{error}");
    }
}

#[test]
fn a_rule_that_can_never_apply_is_refused() {
    let error = refused(
        r#"@id("never") @reason("r") @remedy("m")
           forbid (principal, action == Action::"Train", resource is Adapter);"#,
    );
    assert!(error.contains("`site.cedar` line 1"), "{error}");
}

#[test]
fn a_syntax_error_is_refused_with_file_and_line() {
    let error = refused("@id(\"x\") @reason(\"r\")\npermit (principal, action, resource;");
    assert!(error.contains("`site.cedar` line 2"), "{error}");
}

#[test]
fn rules_need_a_unique_id_a_reason_and_a_remedy() {
    let permit = "permit (principal, action, resource);";
    assert!(refused(permit).contains("no `@id`"));
    assert!(refused(&format!(r#"@id("x") {permit}"#)).contains("no `@reason`"));
    assert!(refused(&format!(r#"@id("users-infer") @reason("r") {permit}"#)).contains("another rule"));
    let forbid = r#"@id("x") @reason("r") forbid (principal, action, resource);"#;
    assert!(refused(forbid).contains("no `@remedy`"));
}

#[test]
fn a_placeholder_for_an_unknown_fact_is_refused() {
    let error = refused(r#"@id("x") @reason("{resource.recrods}") permit (principal, action, resource);"#);
    assert!(error.contains("unknown fact `{resource.recrods}`"), "{error}");
}

#[test]
fn a_schema_that_lacks_what_the_daemon_hands_in_is_refused() {
    let [(name, schema), ..] = BUILT_IN;
    let without = Source { name: name.to_owned(), text: schema.replace("  residualFindings: Long,\n", "") };
    let rule = Source {
        name: SITE.to_owned(),
        text: r#"@id("x") @reason("r") permit (principal, action, resource);"#.to_owned(),
    };
    let error = PolicySet::from_sources(&without, &[rule]).unwrap_err().to_string();
    assert!(error.contains("residualFindings"), "{error}");
}

#[test]
fn an_empty_or_missing_folder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = PolicySet::load(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::Missing { .. }), "{error}");
    std::fs::write(dir.path().join("schema.cedarschema"), BUILT_IN[0].1).unwrap();
    let error = PolicySet::load(dir.path()).unwrap_err();
    assert!(matches!(error, LoadError::Missing { .. }), "{error}");
}

#[test]
fn evidence_about_other_bytes_does_not_count() {
    use cloister_wire::admin;
    let approval = |principal: &str, digest: &str| admin::Approval {
        principal: principal.to_owned(),
        at: String::new(),
        adapter_digest: digest.to_owned(),
        note: String::new(),
    };
    let entry = admin::Adapter {
        name: "a".to_owned(),
        base: "b".to_owned(),
        base_digest: String::new(),
        label: Label::Phi,
        purposes: BTreeSet::new(),
        datasets: Vec::new(),
        recipe: None,
        trained_by: "tess".to_owned(),
        trained_at: String::new(),
        summary: None,
        files: Default::default(),
        digest: "new".to_owned(),
        evaluation: None,
        approvals: vec![approval("ann", "old"), approval("bea", "new")],
    };
    assert_eq!(Adapter::new(&entry, false).approvers, BTreeSet::from(["bea".to_owned()]));
}
