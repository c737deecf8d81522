"""An organisation's learner: data, rewards and model from its own file, loaded for as long as the process runs.

Everything heavy is imported where it is first used, so that the socket answers within a second of the start.
"""

from __future__ import annotations

import gc
import hashlib
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ....common.errors import ConfigError, ProtocolError, SamplerError
from ....common.foreign import safe_logger
from ....common.messages import frames
from ....common.messages.frames import Frame
from ....common.messages.messages import Capabilities, EvaluateTask, SecaggRequest, TrainTask
from ....common.settings.run_config import RunConfig
from ....common.settings.scope import IN_WORDS, for_organisation, ignored_settings
from ...organisation import policy
from ...organisation.bundle import told_bundle
from ...organisation.settings import OrganisationFile
from .. import Learner
from ..data.problems import Problem
from ..data.signal_record import FOLDER, SignalRecord
from ..data.tables import fingerprint, read_organisation_data
from ..masking.summing import SummingLearner
from ..models.backend_check import check_backend
from ..models.load import load_model
from ..models.precision import resolved_dtype
from ..rewards import try_rewards
from .base_groups import base_groups
from .guard import GuardedLearner
from .job_watcher import JobWatcher
from .jobs import Job
from .ledger import Ledger
from .load_organisation import organisation_model, organisation_rewards, organisation_tools, sent_settings
from .log_keeper import LogKeeper, signed_log
from .own_sums import summing_learner
from .tracking import OrganisationTracking

if TYPE_CHECKING:
    from ..models.base_model import Base
    from ..training.local_learner import LoadedModel, LocalLearner

LOGGER = safe_logger("fedgrpo.learner")


class JobHandler:
    """Handles the jobs that arrive over the socket."""

    def __init__(
        self, organisation: OrganisationFile, ledger: Ledger | None = None, keeper: LogKeeper | None = None
    ) -> None:
        """Read data and rewards, so that errors in them are found at the start.

        Args:
            ledger: what has been answered; None for a rehearsal, which nobody outside hears of.
            keeper: what has been seen of the round log; None for a rehearsal, and where no manifest is pinned.

        Raises:
            ConfigError, DataError, RewardError: the organisation's file, a data row or a reward is wrong.
        """
        self.organisation = organisation
        self._record = SignalRecord(organisation.folder / FOLDER if ledger else None)
        self._rehearsal = None if ledger else TemporaryDirectory(prefix="fedgrpo-rehearsal-")
        self._sums = Path(self._rehearsal.name) if self._rehearsal else organisation.folder / "sums"
        self.ledger, self.keeper = ledger or Ledger(None, organisation.policy), keeper
        check_backend(organisation.settings.backend)
        self.tracking = OrganisationTracking(organisation)
        self.train, self.held_out = read_organisation_data(organisation)
        self.tools = organisation_tools(organisation)
        self.rewards = organisation_rewards(organisation) + self.tools.rewards()
        try_rewards(self.rewards, self.train[0].row(organisation.settings.prompt.system))
        self.folder = organisation_model(organisation)
        self.ready = False
        self._base: Base | None = None
        self._learners: dict[str, GuardedLearner] = {}
        self._summing: SummingLearner | None = None
        self._model: LoadedModel | None = None
        self._unguarded: LocalLearner | None = None
        self._job: Job | None = None
        self._task_bytes = 0

    def do(self, job: Job) -> Frame:
        """Do a job, and return its result.

        Raises:
            FedGRPOError: the policy forbids it, or it failed in a way that has a code.
        """
        frame, self._job = job.frame, job
        kind = frame.get("kind", str)
        if kind == "warm-up":
            self.base("auto")
            return Frame({})
        if frame.fields.get("policy", "") not in ("", self.organisation.policy_sha256):
            raise ConfigError(
                f"The policy in {self.organisation.file} has changed since the learner started. Start it again."
            )
        if kind == "audit":
            return signed_log(self.keeper, frame)
        config = self._run_of(frame)
        LOGGER.info("%s, round %s", kind, frame.fields.get("round", "-"))
        try:
            return self._done(kind, frame, self.learner(config, told_bundle(self.organisation.policy, frame.fields)))
        except SamplerError:
            self._set_aside()  # the next job starts the sampler anew
            raise

    def kept(self) -> None:
        """Close the ledger's line of a job whose result is on the disk."""
        self.ledger.close()

    def _run_of(self, frame: Frame) -> RunConfig:
        """Return the run's settings as this organisation applies them; says once what it ignores."""
        sent = sent_settings(frame)
        config = for_organisation(sent, self.organisation.settings.backend)
        if config.sha256 not in self._learners and (ignored := ignored_settings(sent)):
            LOGGER.info("ignored, as everything in %s: %s", IN_WORDS, ", ".join(ignored))
        return config

    def _done(self, kind: str, frame: Frame, learner: GuardedLearner) -> Frame:
        match kind:
            case "capabilities":
                return frames.frame_of((self._summing or learner).capabilities())
            case "train":
                task = frames.task_of(TrainTask, frame, self.schema)
                return frames.frame_of(self._summing.part(task) if self._summing else learner.train(task))
            case "evaluate":
                question = frames.task_of(EvaluateTask, frame, self.schema)
                return frames.frame_of(self._summing.part(question) if self._summing else learner.evaluate(question))
            case "secagg" if self._summing:
                return frames.frame_of(self._summing.step(frames.message_of(SecaggRequest, frame)))
            case _:
                raise ProtocolError("kind", f"there is no job {kind!r}")

    @property
    def identity(self) -> str:
        """Return a hash of everything that a result depends on except the request: settings, data and reward files."""
        digest = hashlib.sha256(repr(self.organisation.settings).encode())
        digest.update(fingerprint([*self.train, *self.held_out]).encode())
        for source in sorted({*self.tools.sources, *(reward.source for reward in self.rewards)} - {"built-in"}):
            digest.update(Path(source).read_bytes())
        return digest.hexdigest()

    @property
    def task_bytes(self) -> int:
        """Return the bytes of the adapter in a task, of the largest run so far: an earlier run may come back."""
        return self._task_bytes

    @property
    def schema(self) -> Any:
        """Return the adapter schema of the current run."""
        assert self._model is not None
        return self._model.schema

    def base(self, dtype: str) -> Base:
        """Return the base model, loaded once; the dtype `auto` uses the file's."""
        settings = self.organisation.settings
        if self._base is None or dtype not in ("auto", self._base.dtype):
            self._base = None  # first, so that two of them need not fit
            started = time.perf_counter()
            base = load_model(self.folder, dtype, backend=settings.backend, device=settings.model.device)
            pinned = settings.model.sha256
            if base.sha256 != pinned:
                raise ConfigError(
                    f"The base model in {self.folder} has SHA-256 {base.sha256}; the organisation's file "
                    f"pins model.sha256 = {pinned or '(nothing)'}. If this is the model you want, write\n"
                    f'sha256 = "{base.sha256}"\nin its [model] section.'
                )
            self._base = base
            LOGGER.info("loaded %s on %s in %.1f s", self.folder, base.model.device, time.perf_counter() - started)
            self.ready = True
        return self._base

    def learner(self, config: RunConfig, app_sha256: str = "") -> GuardedLearner:
        """Return the learner for a run's settings and app bundle. Only one run is current; the next one takes over its
        base model."""
        if config.sha256 not in self._learners or (self._summing and self._summing.app != app_sha256):
            policy.check_run(self.organisation, config)
            self._set_aside()
            guarded = GuardedLearner(
                lambda: self._local_learner(config), self.organisation, config, self.ledger, self.keeper
            )
            self._summing = summing_learner(
                guarded, self.organisation, config, self.keeper, folder=self._sums, app_sha256=app_sha256
            )
            self._learners = {config.sha256: guarded}
        return self._learners[config.sha256]

    def answering(self, config: RunConfig) -> GuardedLearner | SummingLearner:
        """Return what makes the answers of a run: the guarded learner, or where only sums are seen its parts of them.

        Raises:
            PolicyError: as of `check_run`; with the key `manifest`, and with the model loaded, where the run masks and
                the manifest is missing or does not fit.
        """
        guarded = self.learner(config)
        return self._summing or guarded

    def unguarded_capabilities(self) -> Capabilities:
        """Return what the current run could report without a policy, for the organisation's own eyes."""
        assert self._unguarded is not None
        return self._unguarded.capabilities()

    def price(self, ledger: Ledger) -> str:
        """Return what the current run costs in privacy, over what is spent; empty if it is not private."""
        return self._unguarded.price(ledger.spent) if self._unguarded else ""

    def sample_groups(self, count: int) -> list[tuple[Problem, list[tuple[str, Any]]]]:
        """Return `base_groups` of the first prompts, with the current run's settings."""
        assert self._model is not None
        return base_groups(self._model, self.train[:count], self.organisation.settings.prompt.system)

    def _set_aside(self) -> None:
        """Remove the adapter of an earlier run from the base model."""
        self._learners = {}
        if self._model is not None and self._base is not None:
            self._model.trainer.sampler.close()
            self._base = replace(self._base, model=self._model.trainer.adapted.release())
            self._model = None
            gc.unfreeze()
            gc.collect()

    def _local_learner(self, config: RunConfig) -> Learner:
        from ..training.kept_state import KeptState
        from ..training.local_learner import ClientData, LoadedModel, LocalLearner

        base = self.base(resolved_dtype(config, self.folder, self.organisation.settings.model.device))
        self._model = LoadedModel(base, config, self.train[0], self.organisation.settings.model.rank, box=self.tools)
        self._task_bytes = max(self._task_bytes, 4 * self._model.schema.size)
        data = ClientData(
            organisation=self.organisation.name,
            shard=self.train,
            held_out=self.held_out,
            rewards=self.rewards,
            system_prompt=self.organisation.settings.prompt.system,
            block=policy.block_size(self.organisation.policy, config),
            spent=self.ledger.spent,
            kept=KeptState(self.organisation.folder / "kept"),
            record=self._record,
            unit=self.organisation.settings.data.unit_id or "prompt",
        )
        hardware = self._model.measure(self.train[0], self.organisation.settings.prompt.system)
        watcher = JobWatcher(lambda: self._job, config, self.tracking)
        self._unguarded = LocalLearner(self._model, data, watcher, hardware)
        return self._unguarded
