//! Where an answer ends: at a stop text, which may begin and end anywhere in the tokens. Text that could yet
//! become a stop text is held back.

/// Watches an answer's text for its stop texts.
#[derive(Debug, Default)]
pub(super) struct StopFilter {
    stops: Vec<String>,
    held: String,
}

impl StopFilter {
    pub(super) fn new(stops: &[String]) -> Self {
        StopFilter { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes more text. Returns what may be shown, and whether a stop text was met (it is not shown).
    pub(super) fn push(&mut self, text: &str) -> (String, bool) {
        self.held += text;
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, when the answer has ended otherwise.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length in bytes of the longest end of `text` that begins `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let begins = stop.char_indices().map(|(at, _)| at).skip(1).filter(|&len| text.ends_with(&stop[..len]));
    begins.last().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (Vec<String>, bool) {
        let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
        let mut filter = StopFilter::new(&stops);
        let mut shown = Vec::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            shown.push(text);
            if stopped {
                return (shown, true);
            }
        }
        shown.push(filter.finish());
        (shown, false)
    }

    fn shows(shown: &[&str]) -> Vec<String> {
        shown.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_stop_across_pieces_is_found_and_not_shown() {
        assert_eq!(run(&["\n\nUser"], &["Yes.\n", "\nUs", "er: x"]), (shows(&["Yes.", "", ""]), true));
    }

    #[test]
    fn what_only_looked_like_a_stop_is_shown_after_all() {
        assert_eq!(run(&["ENDE"], &["a E", "N", "D."]), (shows(&["a ", "", "END.", ""]), false));
        assert_eq!(run(&["ENDE"], &["a EN"]), (shows(&["a ", "EN"]), false));
    }

    #[test]
    fn the_first_of_several_stops_ends_the_answer() {
        assert_eq!(run(&["zz", "y"], &["xyzz"]), (shows(&["x"]), true));
    }

    #[test]
    fn characters_of_several_bytes_are_never_cut() {
        assert_eq!(run(&["日本"], &["é日", "x"]), (shows(&["é", "日x", ""]), false));
        assert_eq!(run(&[""], &["abc"]), (shows(&["abc", ""]), false));
    }
}
