"""Tables of a newer release: who may serve on them, and what `calico migrate` says."""

from __future__ import annotations

import json
import shutil

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import create_engine, inspect, select
from typer.testing import CliRunner

from backend.cli import command_tree
from backend.errors import StoreError
from backend.storage import schema
from backend.storage.database import state_of
from backend.storage.store import open_store
from backend.storage.tables import accepted_look, descriptor
from tests.servers.events import PROJECT, an_event
from tests.unit.learning.databases import database_url, postgres_server  # noqa: F401

NEXT_STEP = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "9000", "{head}"
branch_labels = depends_on = None
{support}


def upgrade():
    op.add_column("trainer", sa.Column("note", sa.Text(), server_default="", nullable=False))
"""


@pytest.fixture
def next_release(tmp_path, monkeypatch):
    """Returns a function that lets the next release, with one step more, open a database."""

    def update(url, support):
        head = state_of(url).known
        steps = tmp_path / "migrations"
        shutil.copytree(schema.MIGRATIONS, steps)
        step = NEXT_STEP.format(head=head, support=support.format(head=head))
        (steps / "versions" / "9000_next.py").write_text(step)
        with monkeypatch.context() as newer:
            newer.setattr(schema, "MIGRATIONS", steps)
            open_store(url).close()
            assert state_of(url).is_current

    return update


def test_an_older_release_serves_and_restarts_on_tables_that_allow_it(
    database_url,  # noqa: F811
    next_release,
):
    running = open_store(database_url, commit_timeout_s=30)
    assert running.record_events([an_event(1)]) == 1
    next_release(database_url, 'oldest_release = "{head}"')
    assert running.record_events([an_event(2)]) == 1
    running.close()

    restarted = open_store(database_url, commit_timeout_s=30)
    assert restarted.record_events([an_event(3)]) == 1
    assert [head.annotation_id for head in restarted.heads(PROJECT)] == [1, 2, 3]
    restarted.close()
    state = state_of(database_url)
    assert (state.present, state.is_newer, state.is_served) == ("9000", True, True)


@pytest.mark.parametrize("support", ["", 'oldest_release = "9000"'])
def test_tables_that_do_not_allow_it_are_refused(database_url, next_release, support):  # noqa: F811
    open_store(database_url).close()
    next_release(database_url, support)
    with pytest.raises(StoreError, match=r"newer version of CALICO .* update CALICO"):
        open_store(database_url)
    assert not state_of(database_url).is_served


def calico(*words):
    return CliRunner().invoke(command_tree(words), words)


def test_migrate_makes_the_tables_and_then_has_nothing_to_do(tmp_path):
    asked = calico("migrate", "--check", "--data-dir", str(tmp_path / "data"))
    assert asked.exit_code == 0, asked.output
    assert "there are no tables yet" in asked.output
    assert not (tmp_path / "data").exists()
    made = calico("migrate", "--data-dir", str(tmp_path / "data"))
    assert "the tables are made" in made.output
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'calico.sqlite3'}")
    assert "event_log" in inspect(engine).get_table_names()
    engine.dispose()
    again = calico("migrate", "--data-dir", str(tmp_path / "data"))
    assert "up to date" in again.output
    said = json.loads(again.output.splitlines()[-1])
    assert said["before"] == said["now"]
    assert said["older_may_serve"] is True


def test_embeddings_and_descriptors_outlive_the_step_that_puts_weights_into_their_keys(
    database_url,  # noqa: F811
):
    engine = create_engine(database_url)
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0011")
        connection.exec_driver_sql("INSERT INTO accepted_look VALUES (7, 1, 'k', 'base-1', 'x')")
        connection.exec_driver_sql("INSERT INTO descriptor VALUES (7, 3, 'base-1', 'y', 5)")
    engine.dispose()
    store = open_store(database_url, commit_timeout_s=30)
    with store.read() as connection:
        (look,) = connection.execute(select(accepted_look)).mappings()
        (described,) = connection.execute(select(descriptor)).mappings()
    assert (look["annotation_id"], look["base"], look["kept_at_us"]) == (1, "base-1", 0)
    assert (described["task_id"], described["base"], described["kept_at_us"]) == (3, "base-1", 5)
    store.close()


def test_a_file_that_is_no_database_is_told_in_one_sentence(tmp_path):
    (tmp_path / "calico.db").write_text("a letter, and no database " * 20)
    with pytest.raises(StoreError, match="calico.db: file is not a database$"):
        state_of(f"sqlite:///{tmp_path}/calico.db")
    with pytest.raises(StoreError, match="calico.db: file is not a database$"):
        open_store(f"sqlite:///{tmp_path}/calico.db")
