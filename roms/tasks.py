"""The tasks that workers run: each names a job, and the job says what to do. Django's task interface."""

from django_tasks import task


@task(queue_name="builds")
def run_build(pk: int) -> None:
    """Run the build `pk`, unless somebody else does or did."""
    from roms.jobs.building import BuildRun

    BuildRun.of(pk)


@task(queue_name="flash-local")
def run_flash(pk: int) -> None:
    """Run the flash job `pk`, unless somebody else does or did."""
    from roms.jobs.flashing import FlashRun

    FlashRun.of(pk)
