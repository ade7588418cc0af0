#![forbid(unsafe_code)]
//! Owns the words that pick checkpoints: a name, or `A..B` for all from one to another. Knows nothing of the use
//! of them.

use super::{Chain, Model, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::memory;
use std::ops::RangeInclusive;

const DOTS: &[u8] = b"..";

impl Chain {
    /// The checkpoints that these words pick, oldest first and each once: a checkpoint's own name, or `A..B` for A, B and
    /// all that lie between them in the order of the chain.
    ///
    /// A checkpoint of exactly that name wins over a range. A that is younger than B is [`ErrorKind::Order`]; two of
    /// which nobody knows the order, as gaps surround them, are [`ErrorKind::BrokenChain`]; and cumulative checkpoints,
    /// which have no place in a chain, are picked by their names only ([`ErrorKind::Model`]).
    pub fn select(&self, words: &[impl AsRef<[u8]>]) -> Result<Vec<Name>> {
        let mut picked = memory::gather(self.checkpoints.iter().map(|_| false))?;
        for word in words {
            let places = self.places_of_word(word.as_ref())?;
            let first = *places.start();
            picked.iter_mut().take(places.end() + 1).skip(first).for_each(|picked| *picked = true);
        }
        Ok(memory::gather(self.names().zip(picked).filter(|(_, picked)| *picked).map(|(name, _)| name.clone()))?)
    }

    fn places_of_word(&self, word: &[u8]) -> Result<RangeInclusive<usize>> {
        let own = self.position(word);
        if let Ok(at) = own {
            return Ok(at..=at);
        }
        let is_known = |name: &[u8]| self.checkpoint(name).is_some();
        let ends = ends_of(word).filter(|(from, to)| is_known(from) && is_known(to));
        match (ends.clone().next(), ends.clone().nth(1)) {
            (Some((from, to)), None) => self.range(from, to),
            (Some(_), Some(_)) => {
                let message = format!("{} can be read as several ranges of checkpoints", Name::new(word));
                Err(Error::new(ErrorKind::InvalidArgument, message).advise("name each checkpoint by itself"))
            }
            // Most likely a range of which one end is misspelt.
            (None, _) => match ends_of(word).find(|(from, to)| is_known(from) || is_known(to)) {
                Some((from, to)) => Err(self.not_found(&Name::new(if is_known(from) { to } else { from }))),
                None => own.map(|at| at..=at),
            },
        }
    }

    fn range(&self, from: &[u8], to: &[u8]) -> Result<RangeInclusive<usize>> {
        if self.model == Model::Cumulative {
            let message = "cumulative checkpoints have no place in a chain, so that none lies between two of them";
            return Err(Error::new(ErrorKind::Model, message).advise("name each checkpoint by itself"));
        }
        let (first, last) = (self.position(from)?, self.position(to)?);
        let (own, other) = (self.stretch_of(first), self.stretch_of(last));
        if own != other && [own, other].into_iter().flatten().any(|stretch| !stretch.placed) {
            let message =
                format!("several gaps leave it open what lies between {} and {}", Name::new(from), Name::new(to));
            return Err(Error::new(ErrorKind::BrokenChain, message).advise("name each checkpoint by itself"));
        }
        if last < first {
            let message = format!("{} is younger than {}", Name::new(from), Name::new(to));
            return Err(Error::new(ErrorKind::Order, message).advise("swap the two: the older one comes first"));
        }
        Ok(first..=last)
    }
}

/// What stands before and behind two dots, at each place where the word has two, unless nothing does.
pub(super) fn ends_of(word: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
    let dots = word.windows(DOTS.len()).enumerate().filter(|(_, window)| *window == DOTS);
    let ends = dots.filter_map(|(at, _)| Some((word.get(..at)?, word.get(at + DOTS.len()..)?)));
    ends.filter(|(from, to)| !from.is_empty() && !to.is_empty())
}
