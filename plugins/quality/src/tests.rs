//! The scores tell good records from bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;

const DIALOGUE: &str = "Doctor: What brings you back into the clinic today? Patient: I came in for a refill of my \
                        blood pressure medicine. Doctor: Have you had any fever or chills, cough or chest pain?";
const GERMAN: &str = "Der Patient klagt seit gestern über Schmerzen in der Brust und hat keine Medikamente genommen.";
const BASE64: &str = "TG9yZW0gaXBzdW0gZG9sb3I gc2l0IGFtZXQsIGNvbnNlY3 RldHVyIGFkaXBpc2NpbmcgZWxpdCw=";

fn score(text: &str, name: &str) -> f64 {
    let scores = Quality::score(&[Message::new("user", text)]);
    scores.scores.into_iter().find(|(given, _)| given == name).unwrap().1
}

#[test]
fn language_stands_apart_from_noise() {
    assert!(score(DIALOGUE, "language") > 0.9 && score(GERMAN, "language") > 0.9);
    assert!(score(BASE64, "language") < 0.3);
    assert!(score(DIALOGUE, "english") > 0.3);
    assert!(score(GERMAN, "english") < 0.15);
    assert!(score("{\"a\": [1, 2, 3.5], \"b\": 7}", "letters") < 0.5);
}

#[test]
fn repetition_is_seen_in_words_and_in_bytes() {
    assert!(score(DIALOGUE, "repetition") < 0.05 && score(DIALOGUE, "redundancy") < 0.1);
    let looped = "I do not know what to say. ".repeat(20);
    assert!(score(&looped, "repetition") > 0.8 && score(&looped, "redundancy") > 0.8);
    assert!(score(&"ab".repeat(1000), "redundancy") > 0.9);
}

#[test]
fn every_score_is_finite_and_bounded() {
    for text in ["", " ", "\u{0}", "é", "a", &"x".repeat(100_000), &"a b ".repeat(10_000)] {
        for (name, value) in Quality::score(&[Message::new("user", text)]).scores {
            assert!(value.is_finite() && (0.0..=1.0).contains(&value) || name.ends_with("words"), "{name} is {value}");
        }
    }
}

#[test]
fn a_fingerprint_ignores_form_and_sees_content() {
    let of = |user: &str, answer: &str| {
        Quality::score(&[Message::new("user", user), Message::new("assistant", answer)]).fingerprint
    };
    assert_eq!(of("Hello, there!", "Hi."), of("hello   there", "HI"));
    assert_ne!(of("Hello", "Hi."), of("Hello", "Ho."));
    assert_ne!(of("ab", "c"), of("a", "bc"));
}
