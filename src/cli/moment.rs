#![forbid(unsafe_code)]
//! Owns the moment of a running disk while something is done with it: its beginning with a new checkpoint, its end, and the way back
//! where it is lost. Must never know the use that is made of it.

use crate::args::ServeArgs;
use crate::change::warn_all;
use crate::disks::Disk;
use crate::exit::{Failure, Outcome};
use crate::session::Session;
use checkmap::chain::Name;
use checkmap::image::{Access, Layers, OpenOptions};
use checkmap::progress::Unobserved;
use checkmap::qemu::{Machine, Moment, MomentOptions};
use checkmap::{Error, Image};
use std::cell::Cell;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Makes of the moment and its disk what `serve` takes.
type Open<'a, T> = &'a dyn Fn(&Moment, Image) -> checkmap::Result<T>;

/// Serves it; the other call is to be made now and then meanwhile.
type Serve<'a, T> = &'a dyn Fn(&T, &dyn Fn()) -> Outcome;

/// Begins a moment of the one disk that is meant, with a new checkpoint, lets `serve` use what `open` makes of it, and ends it. Where
/// the moment is lost, or `open` fails, the checkpoint is merged into the one before.
pub(crate) fn run<T>(
    args: &ServeArgs,
    checkpoint: &[u8],
    session: &Session,
    open: Open<'_, T>,
    serve: Serve<'_, T>,
) -> Outcome {
    let disks = session.open_disks(args.target.only()?, Access::Write).map_err(Failure::nothing_changed)?;
    if disks.disks.len() > 1 {
        disks.one()?;
        return Err(Failure::Usage("say one of the disks with --node".into()));
    }
    let (Some(disk), Some(machine)) = (disks.disks.first(), &disks.machine) else {
        return Err(Failure::Usage("the machine has no disk".into()));
    };
    let way_back = WayBack { machine, disk, checkpoint, args, session };
    let plan = disk
        .image
        .survey(&mut session.watch())
        .and_then(|()| disk.image.plan_create(checkpoint, None, args.model.wanted()));
    let plan = plan.map_err(Error::nothing_changed)?;
    check_since(machine, disk, args).map_err(Error::nothing_changed)?;
    warn_all(session, plan.risks());
    // From now on the end is always an orderly one.
    session.interrupt().hold();
    let options = MomentOptions::default().scratch(args.scratch.clone()).most_scratch_bytes(args.scratch_max);
    let own: Vec<_> = disk.of_machine.iter().map(|own| (own, Some(&plan))).collect();
    let mut say = |sentence: &str| session.warn(sentence);
    let moment = match machine.begin_moment(&own, &options, &mut say, &mut session.watch()) {
        Ok(moment) => moment,
        Err(error) => {
            if !error.has_changed_nothing() {
                way_back.go();
            }
            return Err(error.into());
        }
    };
    warn_all(session, plan.warnings().iter().chain(moment.warnings()));
    session.say(&format!("created checkpoint {}", Name::new(checkpoint)));
    let opened = way_back.image(Access::Read).and_then(|image| open(&moment, image));
    let has_opened = opened.is_ok();
    let is_told = Cell::new(false);
    let scratch = moment.scratch_watch();
    let look = || {
        if scratch.is_nearly_full() && !is_told.replace(true) {
            session.warn("the scratch is nearly full: soon the moment is lost, and the guest goes on");
        }
    };
    let outcome = opened.map_err(Failure::from).and_then(|opened| serve(&opened, &look));
    // A signal stops the serving, and not what ends it.
    let lost = if has_opened { moment.check(&mut Unobserved).err() } else { None };
    let ended = moment.end(&mut Unobserved);
    if lost.is_some() || !has_opened {
        way_back.go();
    }
    if let Err(error) = ended {
        session.warn(&format!("the moment is left in the hypervisor, and the next command removes it: {error}"));
    }
    lost.map_or(outcome, |lost| Err(lost.into()))
}

/// Refuses a checkpoint that the disk does not know, before another one is made. The layers below may know it.
fn check_since(machine: &Machine, disk: &Disk, args: &ServeArgs) -> checkmap::Result<()> {
    let Some(own) = &disk.of_machine else { return Ok(()) };
    if machine.layers_below(own)?.is_empty() {
        let since = args.since.as_bytes();
        let chain = disk.image.chain_for(args.model.wanted(), &[since])?;
        chain.plan_diff(since, None).map_err(|error| error.in_file(disk.image.path()))?;
    }
    Ok(())
}

/// The way back from a checkpoint whose moment was not read.
struct WayBack<'a> {
    machine: &'a Machine,
    disk: &'a Disk,
    checkpoint: &'a [u8],
    args: &'a ServeArgs,
    session: &'a Session,
}

impl WayBack<'_> {
    /// The disk as it is now.
    fn image(&self, access: Access) -> checkmap::Result<Image> {
        let disk = self.machine.find(self.disk.node().unwrap_or_default())?;
        Ok(Image::on(self.machine.host(&disk)?, Path::new(disk.title()), &OpenOptions::new(access)))
    }

    /// Merges the checkpoint into the one before; a warning says what became of it.
    fn go(&self) {
        let name = Name::new(self.checkpoint);
        match self.merge() {
            Ok(true) => {
                self.session.warn(&format!("checkpoint {name} was merged into the one before it: nothing is lost"))
            }
            Ok(false) => {}
            Err(error) => self.session.warn(&format!("checkpoint {name} is left, delete it: {error}")),
        }
    }

    fn merge(&self) -> checkmap::Result<bool> {
        let mut image = self.image(Access::Write)?;
        let model = self.args.model.wanted();
        if image.chain(model)?.checkpoint(self.checkpoint).is_none() {
            return Ok(false);
        }
        let plan = image.plan_delete(self.checkpoint, false, Layers::Check, model)?;
        image.commit(&plan, &mut Unobserved)?;
        Ok(true)
    }
}
