"""The processor's side of the table: what each of its rooms does there; short statements, sent twice without harm."""

from chassis.database import Database
from processor.claiming.store import Queue
from processor.holding.store import Bodies
from processor.links import Links
from processor.settling.store import Results
from processor.sifting.store import Deliveries, Sources
from processor.upkeep.store import Upkeep


class Store:
    """Over five connections. `holder`: whose the claimed rows are. `name`: of the connections."""

    def __init__(self, database: Database, holder: str, *, lease_seconds: float, name: str = "processor") -> None:
        self._links = Links(database, name)
        self.queue = Queue(self._links, holder, lease_seconds)
        self.bodies = Bodies(self._links)
        self.sources = Sources(self._links)
        self.deliveries = Deliveries(self._links)
        self.results = Results(self._links)
        self.upkeep = Upkeep(self._links)

    async def check(self) -> None:
        """Raise DatabaseError for a database that cannot be used as it is, Unavailable for one that is away."""
        await self._links.check()

    async def close(self) -> None:
        await self._links.close()
