"""The style sheet of the page for screens of 1366 × 768 px and larger."""

import gradio as gr

# Fonts of the visitor's machine, because the page must not load other sites.
THEME = gr.themes.Default(
    font=["system-ui", "sans-serif"],
    font_mono=["monospace"],
    spacing_size=gr.themes.sizes.spacing_sm,
    text_size=gr.themes.sizes.text_sm,
)

CSS = """
.gradio-container > .main { padding: 10px 20px 0; }
.html-container { padding: 0 !important; }
.row, .column, .tabitem > .column { gap: 8px; }
#title { font-size: 14px; line-height: 24px; }
#title b { font-size: 18px; margin-right: 8px; }
#title span { opacity: .65; float: right; }
.heading { height: 29px; line-height: 28px; border-bottom: 1px solid var(--border-color-primary); }
.tab-wrapper { height: 29px; padding: 0 !important; margin: 0 !important; }
.tab-container { height: 29px; }
.tabs { gap: 0 !important; }
.tabitem { padding: 8px 0 0 !important; border: 0 !important; }
.block.padded { padding: 6px 10px !important; }
.block.padded span[data-testid="block-info"] { margin-bottom: 3px; }
.block.padded input, .block.padded textarea { padding: 5px 8px !important; }
.block.padded .wrap-inner { padding: 0 !important; }
#settings .form, #region_settings .form, #sketch_settings .form {
  display: grid; grid-template-columns: 1.15fr 1fr .9fr 1.5fr 1fr .9fr; min-width: 0 !important;
  background: var(--block-background-fill);
}
#settings .icon-wrap, #region_settings .icon-wrap, #sketch_settings .icon-wrap { right: 4px; }
#region_texts span[data-testid="block-info"],
#settings span[data-testid="block-info"],
#region_settings span[data-testid="block-info"],
#size_settings span[data-testid="block-info"],
#sketch_settings span[data-testid="block-info"] { font-size: 12px; white-space: nowrap; }
#examples .grid-wrap { padding: 0; overflow-x: auto; overflow-y: hidden; }
#examples .grid-container { display: flex; gap: 4px; }
#examples .gallery-item, #examples .thumbnail-item { width: 40px; height: 40px; flex: none; }
#upload { height: 40px; }
#result .grid-wrap, #stage1 .grid-wrap { padding: 0; overflow: hidden; }
#result .grid-container, #stage1 .grid-container {
  --columns: 1; height: 100%; padding: 4px; gap: 4px;
  grid-template-columns: repeat(var(--columns), minmax(0, 1fr));
  grid-template-rows: none; grid-auto-rows: minmax(0, 1fr);
}
#results .grid-container:has(.gallery-item:nth-child(2)) { --columns: 2; }
#results .grid-container:has(.gallery-item:nth-child(5)) { --columns: 3; }
#result .gallery-item, #stage1 .gallery-item { min-height: 0; }
#result .thumbnail-item, #stage1 .thumbnail-item { height: 100%; aspect-ratio: auto; border: 0; }
#result .thumbnail-item img, #stage1 .thumbnail-item img { object-fit: contain; }
#words { height: 122px; overflow-y: auto; line-height: 1.5; }
#loras, #controls { height: 122px; overflow-y: auto; flex-wrap: nowrap; }
#region_prompts, #status { padding: 0 !important; }
#region_prompts { height: 60px; overflow-y: auto; }
#region_texts .block.padded { padding: 3px 10px 4px !important; }
#region_texts .block.padded span[data-testid="block-info"] { margin-bottom: 1px; }
#region_texts .block.padded input,
#region_texts .block.padded textarea { padding: 3px 8px !important; }
#region_buttons { height: 108px; }
#region_buttons button { flex: 1; }
#status { height: 104px; overflow-y: auto !important; }
#status .md, #status .md p { font-size: 13px; line-height: 17px; }
/* Always visible where there is more to read. */
#status::-webkit-scrollbar { width: 8px; }
#status::-webkit-scrollbar-thumb { background: var(--neutral-400); border-radius: 4px; }
"""
