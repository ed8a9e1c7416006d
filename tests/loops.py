"""An event loop like that of Windows, for uvicorn's --loop."""

import asyncio


class LoopWithoutReaders(asyncio.SelectorEventLoop):
    """Has no add_reader, as the usual event loop of Windows has none."""

    add_reader = asyncio.AbstractEventLoop.add_reader
    add_writer = asyncio.AbstractEventLoop.add_writer
