// Walks through a layer: output groups, tiles, steps of the kernel, vectors of a tile. Each cycle
// one vector enters the array, where its weights, its accumulator and what it reads are ready.
//
// The loops are those of docs/fpga.md, "Order of work".
module sequencer #(
    parameter int unsigned BLOCKS = 2,
    parameter int unsigned TILE = 256,
    parameter int unsigned ENTRIES = 16
) (
    input  logic         clk,
    input  logic         rst,

    input  logic         valid,
    input  logic [511:0] descriptor,
    output logic         pop,
    input  logic [35:0]  output_base,   // in beats

    output logic         load_start,
    input  logic         load_done,

    input  logic         weights_complete,
    output logic         weights_promise,

    // A tile for the drain, and the tiles that it has read and written.
    output logic         tile_push,
    output logic [206:0] tile,
    input  logic         tile_read,
    input  logic         tile_written,
    output logic         idle,          // nothing is left to compute or to drain

    // What enters the array.
    output logic         enter,         // a vector, or half of one
    output logic         low,           // its lower lanes are read in this cycle
    output logic         high,          // its upper lanes are
    output logic         whole,         // it is complete with this cycle
    output logic         step_first,    // it is the first of a step: weights change
    output logic         tile_first,    // of a tile's first step: accumulators begin
    output logic         tile_last,     // it is the last one of the tile
    output logic         half,
    output logic [$clog2(TILE)-1:0] place,
    output logic [11:0]  x,
    output logic [11:0]  y,
    output logic [3:0]   kernel_x,
    output logic [3:0]   kernel_y,
    output logic         segment,
    output logic [7:0]   group,

    output logic         stall_weights,
    output logic         stall_drain,
    output logic         stall_dependency,
    output logic         stall_port,
    output logic         stall_fetch
);
  localparam logic [2:0] IDLE = 3'd0, LOAD_WAIT = 3'd1, LOAD_RUN = 3'd2, SETUP = 3'd3, RUN = 3'd4,
      NEXT = 3'd5;
  localparam int unsigned BITS = $clog2(TILE);

  logic [2:0] state;
  logic [1:0] setup;

  // Of the descriptor, stable from SETUP on.
  logic narrow, must_wait, split;
  logic [11:0] x_limit, y_limit, x_before, y_before;  // `before`: the one before the last
  logic [BITS-1:0] place_limit, place_before;
  logic short_line, one_line, one_group, one_column, one_step;
  logic [3:0] kernel_x_limit, kernel_y_limit;
  logic [7:0] group_0_limit, group_1_limit, ogs;
  logic two_segments;
  logic [2:0] pixels;
  logic [35:0] external_base;
  assign pixels = narrow ? 3'(BLOCKS) : 3'(BLOCKS / 2);
  always_ff @(posedge clk) begin
    narrow <= descriptor[layout::CONVOLVE_NARROW];
    must_wait <= descriptor[layout::CONVOLVE_WAIT];
    // Lanes two pixels apart meet in a bank where there are more than two.
    split <= BLOCKS > 2 && descriptor[layout::CONVOLVE_NARROW] && descriptor[layout::CONVOLVE_STRIDE+:4] == 4'd2;
    x_limit <= descriptor[layout::CONVOLVE_WIDTH+:12] > 12'(pixels)
               ? descriptor[layout::CONVOLVE_WIDTH+:12] - 12'(pixels) : '0;
    x_before <= x_limit > 12'(pixels) ? x_limit - 12'(pixels) : '0;
    short_line <= x_limit == '0;
    y_limit <= descriptor[layout::CONVOLVE_HEIGHT+:12] - 12'd1;
    y_before <= y_limit - 12'd1;
    one_line <= y_limit == '0;
    place_limit <= BITS'(descriptor[layout::CONVOLVE_TILE+:16] - 16'd1);
    place_before <= place_limit - 1'b1;
    kernel_x_limit <= descriptor[layout::CONVOLVE_KERNEL_WIDTH+:4] - 4'd1;
    kernel_y_limit <= descriptor[layout::CONVOLVE_KERNEL_HEIGHT+:4] - 4'd1;
    group_0_limit <= descriptor[layout::CONVOLVE_SOURCE0_GROUPS+:8] - 8'd1;
    group_1_limit <= descriptor[layout::CONVOLVE_SOURCE1_GROUPS+:8] - 8'd1;
    two_segments <= descriptor[layout::CONVOLVE_SOURCE1_GROUPS+:8] != '0;
    one_group <= group_0_limit == '0;
    one_column <= kernel_x_limit == '0;
    one_step <= group_0_limit == '0 && !two_segments && kernel_x_limit == '0
                && kernel_y_limit == '0;
    ogs <= descriptor[layout::CONVOLVE_NARROW] ? descriptor[layout::CONVOLVE_GROUPS+:8]
                                       : descriptor[layout::CONVOLVE_GROUPS+:8] >> 1;
  end
  add_pipelined #(.WIDTH(36)) add_output (
      .clk,
      .a(output_base),
      .b({8'd0, descriptor[layout::CONVOLVE_OUTPUT_OFFSET+4+:28]}),
      .sum(external_base)
  );

  // Where the loops are. What is the last of its loop is known with the place itself: for vectors
  // by comparing the one before, for what lasts a step by comparing within it.
  logic [7:0] ogs_left, target_group;
  logic [$clog2(ENTRIES)-1:0] entry;
  logic [11:0] tile_x, tile_y, next_x, next_y;
  logic open, upper, first_step, first_tile;
  logic line_end, last_line, next_line_end, next_last_line, tile_line_end, tile_last_line;
  logic place_end, picture_end, tile_end, segment_end, kernel_end, kernel_x_end, step_end, last_og;
  assign picture_end = line_end && last_line;
  assign tile_end = place_end || picture_end;
  assign next_x = line_end ? '0 : x + 12'(pixels);
  assign next_y = line_end ? y + 12'd1 : y;
  assign next_line_end = line_end ? short_line : x >= x_before;
  assign next_last_line = line_end ? y == y_before : last_line;
  // The steps of one tile begin as far apart as their weights come, 16 cycles at least, and so they
  // end: what is compared within a step is there in time. The first step of the next tile may follow
  // at once, and be shorter: it is known beforehand.
  always_ff @(posedge clk) begin
    segment_end <= segment ? group == group_1_limit : group == group_0_limit;
    kernel_x_end <= kernel_x == kernel_x_limit;
    step_end <= kernel_end && kernel_x_end && kernel_y == kernel_y_limit;
    if (whole && tile_end && step_end) begin
      segment_end <= one_group;
      kernel_x_end <= one_column;
      step_end <= one_step;
    end
    last_og <= ogs_left == 8'd1;
  end
  assign kernel_end = segment_end && (segment || !two_segments);

  // Tiles in work. The first tile of a layer also waits for results.
  logic [1:0] unread;
  logic [2:0] unwritten;
  logic accumulator_free, results_there, begin_tile, tile_ready;
  assign begin_tile = !open && first_step;
  always_ff @(posedge clk) begin
    accumulator_free <= unread < 2'd2 && unwritten < 3'd4;
    results_there <= !first_tile || unwritten == '0 || (unwritten == 3'd1 && !must_wait);
  end
  assign tile_ready = !begin_tile || (accumulator_free && results_there);
  assign enter = state == RUN && (open || (weights_complete && tile_ready));
  assign whole = enter && (!split || upper);
  assign low = !split || !upper;
  assign high = !split || upper;
  assign step_first = enter && !open;
  assign weights_promise = step_first;
  assign tile_push = step_first && first_step;
  assign tile_first = first_step;
  assign tile_last = whole && tile_end && step_end;
  assign pop = state == NEXT;
  assign load_start = state == LOAD_WAIT && unwritten == '0;
  assign idle = state == IDLE && !valid && unwritten == '0;

  always_ff @(posedge clk) begin
    if (rst) begin
      state <= IDLE;
      setup <= '0;
      unread <= '0;
      unwritten <= '0;
      half <= 1'b0;
      entry <= '0;
    end else begin
      unread <= unread + 2'(tile_push) - 2'(tile_read);
      unwritten <= unwritten + 3'(tile_push) - 3'(tile_written);
      case (state)
        IDLE:
        if (valid)
          state <= descriptor[layout::CONVOLVE_OPCODE+:8] == layout::OPCODE_LOAD ? LOAD_WAIT : SETUP;
        LOAD_WAIT: if (load_start) state <= LOAD_RUN;
        LOAD_RUN: if (load_done) state <= NEXT;
        SETUP: begin
          setup <= setup + 2'd1;
          if (setup == 2'd3) state <= RUN;
        end
        RUN: if (tile_last && picture_end && last_og) state <= NEXT;
        default: state <= IDLE;
      endcase
      if (tile_last) begin
        half <= !half;
        if (picture_end) entry <= entry + (narrow ? ($clog2(ENTRIES))'(1) : ($clog2(ENTRIES))'(2));
      end
    end
  end

  always_ff @(posedge clk) begin
    if (state == SETUP) begin
      ogs_left <= ogs;
      target_group <= '0;
      tile_x <= '0;
      tile_y <= '0;
      x <= '0;
      y <= '0;
      line_end <= short_line;
      last_line <= one_line;
      tile_line_end <= short_line;
      tile_last_line <= one_line;
      place <= '0;
      place_end <= 1'b0;
      kernel_x <= '0;
      kernel_y <= '0;
      segment <= 1'b0;
      group <= '0;
      open <= 1'b0;
      upper <= 1'b0;
      first_step <= 1'b1;
      first_tile <= 1'b1;
    end else if (enter) begin
      open <= 1'b1;
      upper <= split && !upper;
      if (whole) begin
        x <= next_x;
        y <= next_y;
        line_end <= next_line_end;
        last_line <= next_last_line;
        place <= place + 1'b1;
        place_end <= place == place_before;
        if (tile_end) begin
          open <= 1'b0;
          place <= '0;
          place_end <= 1'b0;
          first_step <= step_end;
          group <= segment_end ? '0 : group + 8'd1;
          if (segment_end) segment <= two_segments && !segment;
          if (kernel_end) kernel_x <= kernel_x_end ? '0 : kernel_x + 4'd1;
          if (kernel_end && kernel_x_end) kernel_y <= step_end ? '0 : kernel_y + 4'd1;
          if (!step_end) begin
            x <= tile_x;
            y <= tile_y;
            line_end <= tile_line_end;
            last_line <= tile_last_line;
          end else begin
            first_tile <= 1'b0;
            if (picture_end) begin
              x <= '0;
              y <= '0;
              line_end <= short_line;
              last_line <= one_line;
              tile_x <= '0;
              tile_y <= '0;
              tile_line_end <= short_line;
              tile_last_line <= one_line;
              ogs_left <= ogs_left - 8'd1;
              target_group <= target_group + (narrow ? 8'd1 : 8'd2);
            end else begin
              tile_x <= next_x;
              tile_y <= next_y;
              tile_line_end <= next_line_end;
              tile_last_line <= next_last_line;
            end
          end
        end
      end
    end
  end

  // What the drain must know of a tile.
  logic external;
  assign external = descriptor[layout::CONVOLVE_EXTERNAL];
  assign tile = {
    half,
    narrow,
    external,
    descriptor[layout::CONVOLVE_RESIDUAL],
    descriptor[layout::CONVOLVE_BEATS+:3],
    4'(entry),
    target_group,
    12'(place_limit),
    x_limit,
    y_limit,
    descriptor[layout::CONVOLVE_WIDTH+:12],
    tile_x,
    tile_y,
    descriptor[layout::CONVOLVE_RESIDUAL_BASE+:16],
    descriptor[layout::CONVOLVE_RESIDUAL_PIXEL_STRIDE+:16],
    descriptor[layout::CONVOLVE_RESIDUAL_LINE_STRIDE+:16],
    external ? external_base : {20'd0, descriptor[layout::CONVOLVE_TARGET_BASE+:16]},
    descriptor[layout::CONVOLVE_TARGET_PIXEL_STRIDE+:16],
    descriptor[layout::CONVOLVE_TARGET_LINE_STRIDE+:16]
  };

  logic wants, wants_tile;
  assign wants = state == RUN && !enter;
  assign wants_tile = wants && begin_tile;
  assign stall_port = enter && !whole;
  assign stall_dependency = (wants_tile && !results_there) || state == LOAD_WAIT || state == LOAD_RUN;
  assign stall_drain = wants_tile && results_there && !accumulator_free;
  assign stall_weights = wants && tile_ready;
  assign stall_fetch = state == IDLE || state == SETUP || state == NEXT;
endmodule
