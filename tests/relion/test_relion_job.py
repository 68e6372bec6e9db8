"""RELION starts a run as its External job, sees it end, and has its results as nodes of the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import starfile

from cryorbit import read_particles
from cryorbit.errors import ParticleDataError
from cryorbit.relion_job import run_as_job
from cryorbit.relion_markers import ABORT_NOW, ABORTED, FAILURE, NODES, SUCCESS

from ..cli.test_cli import call
from ..pipeline_sets import tiny_config, tiny_set


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project folder with particles, and the folder of a job as RELION makes it."""
    monkeypatch.chdir(tmp_path)
    tiny_set(Path("Extract"), images=40)
    job = Path("External/job002")
    job.mkdir(parents=True)
    (job / "run.job").write_text("RELION's own")
    return job


def markers(job):
    return {path.name for path in job.glob("RELION_JOB_*")}


@pytest.mark.parametrize("latent", [False, True])
def test_a_job_leaves_what_relion_looks_for(project, latent):
    kept = run_as_job(Path("Extract/particles.star"), project, tiny_config(), latent=latent)
    assert markers(project) == {SUCCESS}
    nodes = starfile.read(project / NODES)
    assert nodes["rlnPipeLineNodeName"].iloc[0] == str(kept)
    assert (project / "cryorbit" / "report.html").is_file()
    assert all(Path(name).is_file() for name in nodes["rlnPipeLineNodeName"])
    assert (nodes["rlnPipeLineNodeType"] == 3).all()
    assert (project / "run.job").read_text() == "RELION's own"
    # Continued after its end, it says again what it has.
    (project / NODES).unlink()
    assert run_as_job(Path("Extract/particles.star"), project, tiny_config(), latent=latent) == kept
    assert (project / NODES).is_file()


def test_some_rows_only(project):
    star = Path("Extract/particles.star")
    arguments = ["--in_parts", star, "--o", project, "--network", "no", "--select", "rlnDefocusU<16000", "--subset", 25]
    code, _, err = call("relion-job", *arguments, "--defocus_prior", "blind")
    assert (code, err) == (0, "")
    assert markers(project) == {SUCCESS}
    table = read_particles(project / "cryorbit" / "particles.star", check_images=False)
    assert len(table) == min(25, (read_particles(star).defocus_A < 16000).sum())
    assert (table.numbers("cryorbitInputDefocusU") < 16000).all()


def test_another_input_makes_another_run(project):
    first = run_as_job(Path("Extract/particles.star"), project, tiny_config(), latent=False)
    before = first.read_bytes()
    other = tiny_set(Path("Other"), images=30, seed=4)
    again = run_as_job(other, project, tiny_config(), latent=False)
    assert again == first
    assert again.read_bytes() != before
    (old,) = project.glob("cryorbit.old-*")
    assert (old / first.name).read_bytes() == before


@pytest.mark.parametrize("wrong", [["--bogus", "3"], ["--network", "perhaps"], ["--preset", "nope"], ["--j", "0"]])
def test_a_wrong_option_marks_the_job_as_failed(project, wrong):
    code, _, err = call("relion-job", "--in_parts", "Extract/particles.star", "--o", project, *wrong)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert markers(project) == {FAILURE}


def test_an_abort_before_the_start_is_obeyed(project):
    (project / ABORT_NOW).touch()
    with pytest.raises(KeyboardInterrupt):
        run_as_job(Path("Extract/particles.star"), project, tiny_config(), latent=False)
    assert markers(project) == {ABORTED}


def test_a_mistake_marks_the_job_as_failed(project):
    (project / SUCCESS).touch()
    with pytest.raises(ParticleDataError):
        run_as_job(Path("Extract/gone.star"), project, tiny_config())
    assert markers(project) == {FAILURE}


def test_relion_can_abort_and_continue(project, monkeypatch):
    from cryorbit.relion_job import JobLines

    advance = JobLines.advance

    def asked(self, done, total, note=""):
        (project / ABORT_NOW).touch()
        advance(self, done, total, note)

    monkeypatch.setattr(JobLines, "advance", asked)
    with pytest.raises(KeyboardInterrupt):
        run_as_job(Path("Extract/particles.star"), project, tiny_config(), latent=False)
    monkeypatch.setattr(JobLines, "advance", advance)
    assert markers(project) == {ABORTED}
    run_as_job(Path("Extract/particles.star"), project, tiny_config(), latent=False)
    assert markers(project) == {SUCCESS}


@pytest.mark.relion
def test_relions_own_pipeline_runs_it(project, tmp_path):
    if shutil.which("relion_pipeliner") is None:
        pytest.skip("relion_pipeliner is not on the PATH: install RELION 3.1 (Debian package `relion`)")
    shutil.rmtree(project.parent)
    (tmp_path / ".gui_projectdir").touch()
    (tmp_path / "default_pipeline.star").write_text("\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 1\n\n")
    options = (
        f"External executable: == {sys.executable} -m cryorbit relion-job;Input particles:  == Extract/particles.star;"
        "Param1 - label: == network;Param1 - value: == no;Number of threads: == 1"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for arguments in (["--addJob", "External", "--addJobOptions", options], ["--RunJobs", "External/job001/"]):
        done = subprocess.run(
            ["relion_pipeliner", *arguments, *(["--schedule", "once"] if "--RunJobs" in arguments else [])],
            cwd=tmp_path, capture_output=True, text=True, check=False, env=environment, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    job = tmp_path / "External" / "job001"
    assert (job / SUCCESS).is_file(), (job / "run.err").read_text()
    pipeline = starfile.read(tmp_path / "default_pipeline.star")
    assert "External/job001/cryorbit/particles_kept.star" in list(pipeline["pipeline_nodes"]["rlnPipeLineNodeName"])
