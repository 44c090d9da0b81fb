//! The plugin as a whole: what must go, and the medicine that must stay.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

fn clean(text: &str) -> String {
    match Redact::clean(vec![Message::new("user", text)]) {
        Outcome::Kept { messages, .. } => messages[0].content.clone(),
        Outcome::Dropped(reason) => panic!("dropped: {reason}"),
    }
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(clean(text), expected);
}

#[track_caller]
fn stays(text: &str) {
    check(text, text);
}

#[test]
fn names_go() {
    check("followed by Dr. Kumar. Kumar's note", "followed by Dr. [NAME_1]. [NAME_1]'s note");
    check("Hello, Mrs. Smith", "Hello, Mrs. [NAME_1]");
    check("Hello, my name is Anil van der Berg.", "Hello, my name is [NAME_1].");
    check("I'm Anna Schmidt, your doctor", "I'm [NAME_1], your doctor");
    check("this is Anna Schmidt speaking", "this is [NAME_1] speaking");
    check("Seen with Tariq Aziz, MD today", "Seen with [NAME_1], MD today");
    check("Doctor Stanley Gertzbein and Dr. Reitman", "Doctor [NAME_1] and Dr. [NAME_2]");
    check("Hi Ryan, what brings you here?", "Hi [NAME_1], what brings you here?");
    check("my colleague Doctor White. A white female", "my colleague Doctor [NAME_1]. A white female");
    check("his mother Günter Müller", "his mother [NAME_1]");
}

#[test]
fn speaker_labels_go_unless_they_are_roles_or_headings() {
    check("Doctor: Hello\nAnna: Hi\nGuest_family: Yes", "Doctor: Hello\n[NAME_1]: Hi\nGuest_family: Yes");
    stays("Allergies: none\nMedications: aspirin\nPlan: rest");
}

#[test]
fn dates_go() {
    for date in [
        "July 31, 2008",
        "07/31/2008",
        "7/31/08",
        "2008-07-31",
        "31.07.2008",
        "31 July 2008",
        "July 2008",
        "Jul 31",
        "July thirty first",
        "the thirty first of July".trim_start_matches("the "),
        "1993-01-04 14:56:41",
        "March 3rd",
        "07/2008",
    ] {
        check(&format!("it was {date}."), "it was [DATE_1].");
    }
    check("a scan in March", "a scan in [DATE_1]");
}

#[test]
fn contact_details_and_numbers_go() {
    check("call (555) 123-4567", "call [PHONE_1]");
    check("+1 555-123-4567 or 555.123.4567x89", "[PHONE_1] or [PHONE_2]");
    check("write a.b@example.org!", "write [EMAIL_1]!");
    check("see https://example.org/a?b=c.", "see [URL_1].");
    check("from 10.218.6.131 and 2001:db8:1:2:3:4:5:6", "from [IP_1] and [IP_2]");
    check("SSN 308-63-0237", "SSN [SSN_1]");
    check("MRN: 00123456, chart # A-99881", "MRN: [MRN_1], chart # [MRN_2]");
    check("driver's license number is LH329609T", "driver's license number is [ID_1]");
    check("card 4111 1111 1111 1111", "card [CARD_1]");
    check("IBAN GB69PMNJ18913943430745 now", "IBAN [IBAN_1] now");
    check("lives at 12 Main Street, Apt 4, ZIP code 35649", "lives at [ADDRESS_1], ZIP code [ZIP_1]");
}

#[test]
fn only_ages_over_89_go() {
    check("a ninety-two year old man", "a [AGE_1] year old man");
    check("a 94-year-old", "a [AGE_1]-year-old");
    check("I am ninety four.", "I am [AGE_1].");
    stays("a 76-year-old, then a twenty five year old; 92% on room air");
}

#[test]
fn medicine_stays() {
    for text in [
        "Crohn's disease, Parkinson disease and Bell's palsy",
        "type 2 diabetes, HbA1c 7.2, 10/325 mg, 120/80, T4-5, strength 5/5, 20/20 vision",
        "sphincter of Oddi, circle of Willis, Allen test, Foley catheter",
        "Thank you, Doctor. Do I need a follow-up?",
        "ANA and ESR were sent, AST 30",
        "Hi Doctor, I am good. I am Cuban. I'm Caucasian.",
        "You may take 2 tablets; he may 1 day return; march 2 miles",
        "White blood cells were 12.5, platelets 250-400, ratio 1:2:3",
        "It is called Onychomycosis. I was given Zyprexa 10 mg.",
        "sodium 140, potassium 4.1, checks at 24-48-72",
    ] {
        stays(text);
    }
}

#[test]
fn one_entity_has_one_token_throughout_the_record() {
    let record = vec![
        Message::new("user", "I saw Doctor Kumar."),
        Message::new("assistant", "Kumar reviewed it. Dr. Lund too."),
    ];
    let Outcome::Kept { messages, findings } = Redact::clean(record.clone()) else { panic!("dropped") };
    assert_eq!(messages[1].content, "[NAME_1] reviewed it. Dr. [NAME_2] too.");
    let found = |f: &Finding| record[f.message as usize].content[f.start as usize..f.end as usize].to_owned();
    assert_eq!(findings.iter().map(found).collect::<Vec<_>>(), ["Kumar", "Kumar", "Lund"]);
}

#[test]
fn time_is_linear_in_hostile_text() {
    let start = std::time::Instant::now();
    for piece in ["1-", "Dr. ", "a@", "A ", "(555) ", "Anna ", "1 A ", ":", "é"] {
        clean(&piece.repeat(100_000));
    }
    assert!(start.elapsed().as_secs() < 60, "took {:?}", start.elapsed());
}
