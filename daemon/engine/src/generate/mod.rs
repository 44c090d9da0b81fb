//! From a prompt to an answer: `sampler` (which token next), `stop` (where an answer ends), `scheduler`
//! (many requests at once, joining and leaving between steps).
