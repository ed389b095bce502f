"""MLflow's own logins, in a SQLite file of `rlhf up`."""

from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore


def set_password(database: str, user: str, password: str) -> None:
    """Give a user a password, which replaces the earlier one. Other logins stay as they are.

    Args:
        database: address of the store of users, which is there.
        user: of whom MLflow makes the login itself where it is missing.
        password: the new password, or the present one.
    """
    store = SqlAlchemyStore()
    store.init_db(database)  # type: ignore[no-untyped-call]
    try:
        if store.has_user(user) and not store.authenticate_user(user, password):
            store.update_user(user, password)
    finally:
        store.engine.dispose()
