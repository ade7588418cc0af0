#![forbid(unsafe_code)]
//! Owns removals that no bitmap absorbs: everything before a checkpoint, one bitmap by its own name, or the whole
//! bitmap directory.

use super::{Access, Image};
use crate::chain::{self, Chain, KnownModel, Model, Name, Plan};
use crate::error::{Control, Error, ErrorKind, Result, WayOut};
use crate::memory;
use crate::progress::Observer;

/// The bitmaps that [`Image::drop_all`] takes away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// Whether the image has a bitmap directory at all.
    pub has_directory: bool,
    /// The bitmaps, as far as the directory can be read.
    pub bitmaps: Vec<Name>,
    /// Those among them that belong to no checkpoint of checkmap's.
    pub foreign: Vec<Name>,
    /// Warnings for the caller's user, one sentence each.
    pub warnings: Vec<String>,
}

impl Image {
    /// Plans that a checkpoint becomes the root: the bitmaps of all older ones go, also those before gaps. The layers
    /// below do not matter, as no answer that is left needs the removed bitmaps.
    pub fn plan_drop_before(&self, checkpoint: &[u8], model: Option<KnownModel>) -> Result<Plan> {
        self.check_writable()?;
        self.finish(self.usable_chain(model, &[checkpoint])?.plan_drop_before(checkpoint))
    }

    /// Plans the removal of the bitmap that is stored as `bitmap`, in any state and with any meaning.
    pub fn plan_drop_bitmap(&self, bitmap: &[u8]) -> Result<Plan> {
        self.check_writable()?;
        self.check_readable()?;
        self.finish(chain::plan_drop_bitmap(&self.states()?, bitmap))
    }

    /// The bitmaps that [`Image::drop_all`] would take away.
    pub fn loss_of_all(&self) -> Result<Loss> {
        let states = self.states()?;
        let bitmaps = memory::gather(states.iter().map(|state| state.name.clone()))?;
        let mut warnings = Vec::new();
        let of_libvirt = |chain: &Chain| {
            let bitmaps = chain.checkpoints().iter().map(|checkpoint| &checkpoint.bitmap);
            let verb = if bitmaps.len() == 1 { "is a cumulative checkpoint" } else { "are cumulative checkpoints" };
            format!(
                "{} {verb}, as libvirt makes them: if it did, it still lists them, so delete their metadata there too",
                chain::list(bitmaps)
            )
        };
        let beside = match Chain::beside(&states) {
            Err(error) if error.is_of_the_call() => return Err(error),
            beside => beside.ok().flatten(),
        };
        match Chain::read(&states, None) {
            Ok(chain) if chain.model() == Model::Cumulative => warnings.push(of_libvirt(&chain)),
            Ok(chain) if !chain.checkpoints().is_empty() => {
                let names = chain.checkpoints().iter().map(|checkpoint| &checkpoint.name);
                warnings.push(format!("every diff since {} is lost", chain::list(names)));
            }
            Err(error) if error.is_of_the_call() => return Err(error),
            _ if !bitmaps.is_empty() => warnings.push(format!("the bitmaps {} are lost", chain::list(&bitmaps))),
            _ => {}
        }
        warnings.extend(beside.as_ref().map(of_libvirt));
        if self.has_damaged_directory() {
            warnings.push("the bitmap directory is damaged: what else it held cannot be told".into());
        }
        let has_directory = self.host.has_directory();
        if has_directory {
            warnings.push("tracking ends, and the next backup must be full".into());
        }
        Ok(Loss { has_directory, foreign: self.foreign()?, bitmaps, warnings })
    }

    /// Drops the whole bitmap directory in one atomic step, damaged or not: also where it keeps QEMU from opening the
    /// image. It returns warnings.
    ///
    /// Bitmaps that belong to no checkpoint of checkmap's go only with `foreign_too`. Clusters that nothing else references are
    /// freed; clusters that cannot be known stay counted as used, and a warning says so.
    pub fn drop_all(&mut self, foreign_too: bool, observer: &mut dyn Observer) -> Result<Vec<String>> {
        if self.options.access != Access::Write {
            let read_only = Error::new(ErrorKind::ReadOnly, "was not opened for writing");
            return Err(self.name_it(read_only.advise("open it for writing").nothing_changed()));
        }
        self.check_drop_all(foreign_too)?;
        let dropped = self.host.drop_all(observer);
        self.note_change(dropped)
    }

    /// The warnings that [`Image::drop_all`] would give, or why it would fail; writes nothing.
    pub fn rehearse_drop_all(&self, foreign_too: bool, observer: &mut dyn Observer) -> Result<Vec<String>> {
        self.check_drop_all(foreign_too)?;
        self.steady(|| self.rehearsed(self.host.rehearse_drop_all(observer)))
    }

    fn has_damaged_directory(&self) -> bool {
        self.trouble().is_some_and(|trouble| trouble.kind() == ErrorKind::Damaged)
    }

    /// The bitmaps that belong to no checkpoint. A single one before the damage can be the root of all that follows, and
    /// is of no use as it is.
    fn foreign(&self) -> Result<Vec<Name>> {
        match self.states()?.as_slice() {
            [_] if self.has_damaged_directory() => Ok(Vec::new()),
            states => chain::foreign_in(states),
        }
    }

    fn check_drop_all(&self, foreign_too: bool) -> Result<()> {
        self.look().map_err(Error::nothing_changed)?;
        let foreign = self.foreign().map_err(Error::nothing_changed)?;
        if foreign.is_empty() || foreign_too {
            return Ok(());
        }
        let beside = Chain::beside(&self.states()?).ok().flatten();
        let is_theirs = |name: &&Name| beside.as_ref().is_some_and(|chain| chain.interval_of(name).is_some());
        let (theirs, others): (Vec<&Name>, Vec<&Name>) = foreign.iter().partition(is_theirs);
        let message = match (theirs.is_empty(), others.is_empty()) {
            (true, _) => format!("bitmaps that belong to no checkpoint would go too: {}", chain::list(others)),
            (false, true) => format!("bitmaps of libvirt's checkpoints would go too: {}", chain::list(theirs)),
            (false, false) => format!(
                "bitmaps of libvirt's checkpoints would go too, {}, and some that belong to no checkpoint: {}",
                chain::list(theirs),
                chain::list(others)
            ),
        };
        let way_out = WayOut::from("if nobody needs them, insist with ")
            .control(Control::ForeignToo)
            .words("; single bitmaps go with ")
            .control(Control::DropBitmap);
        Err(self.name_it(Error::new(ErrorKind::Exists, message).advise(way_out).nothing_changed()))
    }
}
