"""The page that follows a run or a journal, served on 127.0.0.1 (the extra `live`).

```python
from runware_flow.live import LivePage

with LivePage() as page:
    print(page.url)
    flow.run(progress=page)
```
"""

from __future__ import annotations

from runware_flow.live.page import LivePage

__all__ = ("LivePage",)
